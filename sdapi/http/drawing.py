"""Routes made from a dialect's table of paths: the calls that make jobs, and the look-ups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from sdapi.dialects.base import Dialect, Endpoint, FetchPath, job_id_of
from sdapi.domain.errors import JobNotFound, NotAuthorised
from sdapi.jobs.call import Call

from .answer_schemas import JOB
from .dependencies import Body, Client, ClientIfAny, IdempotencyKey, Jobs, Limits, PublicUrl, answer
from .miss_limiter import MissLimiter
from .multipart import close_files
from .samples import documented, documented_answer, schema_of

Route = Callable[..., Awaitable[JSONResponse]]


class KeyBody(BaseModel):
    """What a look-up by path reads; only documentation."""

    key: str | None = Field(default=None, description="API key; the headers X-API-KEY and Authorization: Bearer are read, too")


class LookUpBody(KeyBody):
    """What any other look-up reads; only documentation, because a malformed id is answered like an unknown one."""

    request_id: int | str | None = Field(default=None, description="The id that the request was answered with")
    id: int | str | None = Field(default=None, description="The same under its other name")


def add_drawing_routes(routes: APIRouter, dialect: Dialect, endpoints: Sequence[Endpoint]) -> None:
    """One POST route for each row of the table."""
    for endpoint in endpoints:
        draw = _draw(dialect, endpoint)
        if endpoint.is_alias:
            _add(routes, endpoint.path, draw, methods=["POST"], include_in_schema=False)
            continue
        extra = documented(dialect.NAME, endpoint.sample, endpoint.body, answer=JOB)
        _add(routes, endpoint.path, draw, methods=["POST"], summary=endpoint.summary, openapi_extra=extra)


def add_fetch_routes(routes: APIRouter, dialect: Dialect, paths: Sequence[FetchPath], *, misses: MissLimiter | None = None) -> None:
    """A POST and a GET route for each row. With `misses` a call needs no key, unless the settings ask for one."""
    for row in paths:
        with_id = "{id}" in row.path
        fetch = _fetch_by_path(dialect) if with_id else _fetch_by_body(dialect, misses)
        asked = KeyBody if with_id else LookUpBody
        posted = documented(dialect.NAME, "fetch", asked, answer=JOB)
        got = {"parameters": _in_query(asked), **documented_answer(dialect.NAME, "fetch", answer=JOB)}
        _add(routes, row.path, fetch, methods=["POST"], summary="Look up an earlier request.", openapi_extra=posted)
        _add(routes, row.path, fetch, methods=["GET"], summary="Look up an earlier request.", openapi_extra=got)


def _draw(dialect: Dialect, endpoint: Endpoint) -> Route:
    async def draw(
        client: Client, body: Body, jobs: Jobs, limits: Limits, public_url: PublicUrl, idempotency_key: IdempotencyKey
    ) -> JSONResponse:
        asked = endpoint.parse(body, limits.reading)
        call = Call(
            client=client,
            dialect=dialect.NAME,
            public_url=public_url,
            path=endpoint.path,
            body=body,
            idempotency_key=idempotency_key,
        )
        job = await jobs.submit(asked, call)
        holds = not asked.instant_response
        # Pictures are megabytes, in base64 even of memory, and many calls may be held at once: nobody needs them any more.
        del asked, call
        close_files(body)
        body.clear()
        if holds:
            job = await jobs.hold(job)
        return answer(dialect.render_job(job, eta_s=await jobs.eta_s(job)), dialect, limits)

    return draw


def _fetch_by_path(dialect: Dialect) -> Route:
    async def fetch(id: str, client: Client, jobs: Jobs, limits: Limits) -> JSONResponse:  # noqa: A002 - the contract's name
        job_id = job_id_of(id)
        if job_id is None:
            raise JobNotFound
        job = await jobs.fetch(job_id, client_id=client.id)
        return answer(dialect.render_fetch(job, eta_s=await jobs.eta_s(job)), dialect, limits)

    return fetch


def _fetch_by_body(dialect: Dialect, misses: MissLimiter | None) -> Route:
    async def fetch(request: Request, client: ClientIfAny, body: Body, jobs: Jobs, limits: Limits) -> JSONResponse:
        if client is None and (misses is None or limits.fetch_requires_key):
            raise NotAuthorised
        job_id = dialect.parse_fetch(body)
        if job_id is None:
            raise JobNotFound
        if client is not None:
            job = await jobs.fetch(job_id, client_id=client.id)
        else:
            assert misses is not None  # noqa: S101 - NotAuthorised above
            with misses.guarding(request.client.host if request.client else "unknown"):
                job = await jobs.fetch(job_id, client_id=None)
                if job.dialect != dialect.NAME:
                    # The other services always asked for a key: theirs are not to be had through this door.
                    raise JobNotFound
        return answer(dialect.render_fetch(job, eta_s=await jobs.eta_s(job)), dialect, limits)

    return fetch


def _add(routes: APIRouter, path: str, endpoint: Route, *, methods: list[str], **described: Any) -> None:
    routes.add_api_route(path, endpoint, methods=methods, response_class=JSONResponse, **described)


def _in_query(asked: type[BaseModel]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in schema_of(asked)["properties"].items()]
