"""Every router of the API, in the order they are looked at."""

from __future__ import annotations

from fastapi import APIRouter

from . import goapi, health, images, jobs
from .miss_limiter import MissLimiter


def all_routers() -> list[APIRouter]:
    """Fresh routers for one app, with a limiter of their own."""
    return [health.router(), goapi.router(MissLimiter()), images.router(), jobs.router()]
