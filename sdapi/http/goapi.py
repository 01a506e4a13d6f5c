"""The routes of the GoAPI dialect: its table of paths, and a fetch that needs no key."""

from __future__ import annotations

from fastapi import APIRouter, Security

from sdapi.dialects import goapi as dialect

from .dependencies import KEY_HEADER
from .drawing import add_drawing_routes, add_fetch_routes
from .miss_limiter import MissLimiter


def router() -> APIRouter:
    """Fresh routes, with a limiter of wrong guesses of their own."""
    routes = APIRouter(tags=["GoAPI"], dependencies=[Security(KEY_HEADER)])
    add_drawing_routes(routes, dialect, dialect.ENDPOINTS)
    add_fetch_routes(routes, dialect, dialect.FETCH_PATHS, misses=MissLimiter())
    return routes
