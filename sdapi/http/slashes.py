"""A slash at the end of a path means nothing, as on the hosted services."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

_KEPT = "/playground/"
"""Where it does mean something: the page's own links are relative to its folder."""


class SlashTolerance:
    """ASGI middleware that takes slashes off the end of the path: a second route for each path would double the time a start takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the path as the routes have it."""
        if scope["type"] == "http" and scope["path"].endswith("/") and scope["path"] not in ("/", _KEPT):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)
