"""The ASGI application: routers, error handlers, lifespan; no logic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from sdapi.db.migrations import upgrade
from sdapi.http import error_handlers
from sdapi.http.access_log import AccessLog
from sdapi.http.answer_schemas import REFUSALS
from sdapi.http.metrics import RequestMetrics
from sdapi.http.routers import all_routers
from sdapi.http.slashes import SlashTolerance
from sdapi.jobs.scrape import Scrape
from sdapi.metrics import Metrics
from sdapi.services import DIALECTS, open_services
from sdapi.settings import Settings


def create_app(settings: Settings, *, owns_process: bool = False) -> FastAPI:
    """The application for these settings. Its lifespan migrates the database and opens the services.

    `owns_process` says that nothing else is done in this process.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await upgrade(settings.sqlalchemy_url)
        async with open_services(settings, metrics, owns_process=owns_process) as services:
            app.state.services = services
            app.state.scrape = Scrape(metrics, services.sessions, services.engine.models)
            yield

    app = FastAPI(
        title="sdapi",
        version=version("sdapi"),
        summary="Self-hosted image generation behind the HTTP APIs of the hosted Stable Diffusion services",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for router in all_routers(DIALECTS):
        app.include_router(router, responses=REFUSALS)
    error_handlers.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    app.add_middleware(SlashTolerance)
    app.add_middleware(AccessLog)
    app.add_middleware(RequestMetrics, metrics=metrics)
    return app
