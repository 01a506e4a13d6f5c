"""GET /healthz: is the process alive and well. GET /readyz: can it draw."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from .answer_schemas import REFUSAL
from .dependencies import OpenServices

_HEADERS = {"Cache-Control": "no-store"}
_UNWELL: dict[int | str, dict[str, Any]] = {503: {"description": "Why not", "content": {"application/json": {"schema": REFUSAL}}}}


def router() -> APIRouter:
    """Both need no key; HEAD is answered too."""
    routes = APIRouter(tags=["Health"])

    @routes.get("/healthz", responses=_UNWELL)
    @routes.head("/healthz", include_in_schema=False)
    async def healthz(services: OpenServices) -> JSONResponse:
        """200, or 503 with the reason."""
        problem = await services.problem()
        if problem is None:
            return JSONResponse({"status": "ok"}, headers=_HEADERS)
        return JSONResponse({"status": "error", "message": problem}, status_code=503, headers=_HEADERS)

    @routes.get("/readyz", responses=_UNWELL)
    @routes.head("/readyz", include_in_schema=False)
    async def readyz(services: OpenServices) -> JSONResponse:
        """200, or 503 with every reason why nothing can be drawn."""
        reasons = list(await services.not_ready())
        if not reasons:
            return JSONResponse({"status": "ok"}, headers=_HEADERS)
        return JSONResponse({"status": "error", "message": "; ".join(reasons), "reasons": reasons}, status_code=503, headers=_HEADERS)

    return routes
