"""Every router of the API, in the order they are looked at."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import cast

from fastapi import APIRouter

from sdapi.dialects.base import Dialect

from . import health, images, jobs, metrics, playground


def all_routers(dialects: Iterable[Dialect]) -> list[APIRouter]:
    """Fresh routers for one app. A dialect's routes are those of the module of its name in this package."""
    spoken = [cast("APIRouter", import_module(f"{__package__}.{dialect.NAME}").router()) for dialect in dialects]
    return [health.router(), *spoken, images.router(), jobs.router(), metrics.router(), playground.router()]
