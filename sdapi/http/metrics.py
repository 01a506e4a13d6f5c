"""GET /metrics for Prometheus, and the middleware that counts requests for it."""

from __future__ import annotations

import time
from typing import Protocol, cast

from fastapi import APIRouter, Request, Response, Security
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdapi.metrics import OTHER, Metrics

from .dependencies import KEY_HEADER, ClientId


class Readable(Protocol):
    """What lies in `app.state.scrape` while the app runs."""

    async def read(self) -> bytes:
        """The text for Prometheus."""


def router() -> APIRouter:
    """Needs a key: how busy a server is, and with what, is not for strangers."""
    routes = APIRouter(tags=["Health"], dependencies=[Security(KEY_HEADER)])

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(client: ClientId, request: Request) -> Response:  # noqa: ARG001 - a valid key is all that is asked
        """Requests, jobs, the queue and the process, in Prometheus's text format."""
        scrape = cast("Readable", request.app.state.scrape)
        return Response(await scrape.read(), headers={"Cache-Control": "no-store"}, media_type=CONTENT_TYPE_LATEST)

    return routes


class RequestMetrics:
    """ASGI middleware, to be added outermost, so that it sees what the other layers answer, too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._metrics.request_ended(route=_route(scope), method=scope["method"], status=status, seconds=time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The template of the route that answered; its spelling with a slash at the end counts as the same."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return OTHER if path is None else path.rstrip("/") or "/"
