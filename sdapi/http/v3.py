"""The routes of stablediffusionapi.com v3, v4 and v5: the dialect's table of paths."""

from __future__ import annotations

from fastapi import APIRouter

from sdapi.dialects import v3 as dialect

from .drawing import add_drawing_routes, add_fetch_routes
from .picture_calls import add_picture_routes


def router() -> APIRouter:
    """Fresh routes. The key comes in the body, as it did there; headers are read, too."""
    routes = APIRouter(tags=["v3, v4, v5"])
    add_drawing_routes(routes, dialect, dialect.ENDPOINTS)
    add_fetch_routes(routes, dialect, dialect.FETCH_PATHS)
    add_picture_routes(routes)
    return routes
