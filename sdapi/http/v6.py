"""The routes of modelslab.com v6: the dialect's table of paths."""

from __future__ import annotations

from fastapi import APIRouter

from sdapi.dialects import v6 as dialect

from .drawing import add_drawing_routes, add_fetch_routes


def router() -> APIRouter:
    """Fresh routes. The key comes in the body, as it did there; headers are read, too."""
    routes = APIRouter(tags=["v6"])
    add_drawing_routes(routes, dialect, dialect.ENDPOINTS)
    add_fetch_routes(routes, dialect, dialect.FETCH_PATHS)
    return routes
