"""GET /healthz: is the process alive and well. GET /readyz: can it draw."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from .dependencies import OpenServices

_HEADERS = {"Cache-Control": "no-store"}


def router() -> APIRouter:
    """Both need no key; HEAD is answered too."""
    routes = APIRouter(tags=["Health"])

    @routes.get("/healthz")
    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz/", include_in_schema=False)
    async def healthz(services: OpenServices) -> JSONResponse:
        """200, or 503 with the reason."""
        problem = await services.problem()
        if problem is None:
            return JSONResponse({"status": "ok"}, headers=_HEADERS)
        return JSONResponse({"status": "error", "message": problem}, status_code=503, headers=_HEADERS)

    @routes.get("/readyz")
    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz/", include_in_schema=False)
    async def readyz(services: OpenServices) -> JSONResponse:
        """200, or 503 with every reason why nothing can be drawn."""
        reasons = list(await services.not_ready())
        if not reasons:
            return JSONResponse({"status": "ok"}, headers=_HEADERS)
        return JSONResponse({"status": "error", "message": "; ".join(reasons), "reasons": reasons}, status_code=503, headers=_HEADERS)

    return routes
