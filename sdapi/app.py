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
from sdapi.http.routers import all_routers
from sdapi.services import open_services
from sdapi.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. Its lifespan migrates the database and opens the services."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await upgrade(settings.sqlalchemy_url)
        async with open_services(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="sdapi",
        version=version("sdapi"),
        summary="Self-hosted image generation behind the HTTP APIs of the hosted Stable Diffusion services",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for router in all_routers():
        app.include_router(router)
    error_handlers.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    app.add_middleware(AccessLog)
    return app
