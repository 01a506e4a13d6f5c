"""The routes of the GoAPI dialect."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Security
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sdapi.dialects import goapi
from sdapi.domain.errors import JobNotFound, NotAuthorised
from sdapi.domain.job import DialectName

from .dependencies import KEY_HEADER, Body, ClientId, ClientIdIfAny, Jobs, Limits, PublicUrl, answer
from .miss_limiter import MissLimiter


def router(misses: MissLimiter) -> APIRouter:
    """POST /sd/txt2img, /sd/img2img and /sd/fetch (GET too), each with and without a trailing slash."""
    routes = APIRouter(prefix="/sd", tags=["GoAPI"], dependencies=[Security(KEY_HEADER)])

    @routes.post("/txt2img", openapi_extra=_documented(goapi.Txt2ImgBody))
    @routes.post("/txt2img/", include_in_schema=False)
    async def txt2img(client: ClientId, body: Body, jobs: Jobs, limits: Limits, public_url: PublicUrl) -> JSONResponse:
        """Draw what the prompt says."""
        asked = goapi.parse_txt2img(body, max_side_px=limits.max_side_px)
        job = await jobs.submit_and_wait(asked, client_id=client, dialect=DialectName.GOAPI, public_url=public_url)
        return answer(goapi.render_job(job, eta_s=await jobs.eta_s(job)))

    @routes.post("/img2img", openapi_extra=_documented(goapi.Img2ImgBody))
    @routes.post("/img2img/", include_in_schema=False)
    async def img2img(client: ClientId, body: Body, jobs: Jobs, limits: Limits, public_url: PublicUrl) -> JSONResponse:
        """Draw what the prompt says, starting from a picture."""
        asked = goapi.parse_img2img(body, max_side_px=limits.max_side_px)
        job = await jobs.submit_and_wait(asked, client_id=client, dialect=DialectName.GOAPI, public_url=public_url)
        return answer(goapi.render_job(job, eta_s=await jobs.eta_s(job)))

    @routes.post("/fetch", openapi_extra=_documented(goapi.FetchBody))
    @routes.post("/fetch/", include_in_schema=False)
    @routes.get("/fetch", include_in_schema=False)
    @routes.get("/fetch/", include_in_schema=False)
    async def fetch(request: Request, client: ClientIdIfAny, body: Body, jobs: Jobs, limits: Limits) -> JSONResponse:
        """Look up an earlier request. Works without a key, unless a setting asks for one; with a key, for its own requests only."""
        if client is None and limits.fetch_requires_key:
            raise NotAuthorised
        job_id = goapi.parse_fetch(body)
        if job_id is None:
            raise JobNotFound
        with misses.guarding(_address(request) if client is None else None):
            job = await jobs.fetch(job_id, client_id=client)
        return answer(goapi.render_fetch(job, eta_s=await jobs.eta_s(job)))

    return routes


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _documented(body: type[BaseModel]) -> dict[str, Any]:
    """The body's fields for the documentation page; the body itself is read by `bodies`, more kindly than FastAPI would."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}
