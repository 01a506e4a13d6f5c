"""The routes of the enterprise dialect: its table of paths, for enterprise keys only."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from sdapi.dialects import enterprise as dialect

from .administration import add_administration_routes
from .dependencies import enterprise_client
from .drawing import add_drawing_routes, add_fetch_routes

_PREFIXES = ("/api/v1/enterprise", "/api/v1/enterprise/images", "/api/v1/enterprise/txt2img")
"""One and the same in three places: what is under the first, real clients call under the others."""


def router() -> APIRouter:
    """Fresh routes."""
    routes = APIRouter(tags=["enterprise v1"], dependencies=[Depends(enterprise_client)])
    add_drawing_routes(routes, dialect, dialect.ENDPOINTS)
    add_fetch_routes(routes, dialect, dialect.FETCH_PATHS)
    add_administration_routes(routes, _PREFIXES)
    return routes
