"""The one place where errors become HTTP, in the words of the dialect whose path was called."""

from __future__ import annotations

import logging
import secrets
from typing import Protocol, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdapi.dialects.base import Dialect, Rendered
from sdapi.domain.errors import InvalidRequest, SdapiError

from . import plain
from .dependencies import answer
from .provided import Services

logger = logging.getLogger(__name__)

_ROUTING_MESSAGES = {404: "There is nothing at this path", 405: "This path does not answer this method"}


class _TellsErrors(Protocol):
    def render_error(self, error: SdapiError) -> Rendered: ...

    def render_message(self, status: int, message: str, *, request_id: str | None = None) -> Rendered: ...


def install(app: FastAPI) -> None:
    """Answer every error of `app` as JSON. CORS middleware is to be added afterwards, so that crashes get its headers too."""
    app.add_exception_handler(SdapiError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_middleware(CrashGuard)


class CrashGuard:
    """Turns an exception nobody expected into a 500 with a request id, under which the log has the traceback.

    Not an exception handler: Starlette answers those for `Exception` outside all other middleware (without CORS headers, which
    browsers then report as a CORS failure) and raises again, so that the server logs everything twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientDisconnect:
            logger.debug("client went away", extra={"path": scope["path"]})
        except Exception:  # the outermost boundary: whatever broke, the client gets JSON and the log the traceback
            request_id = scope.get("state", {}).get("request_id") or secrets.token_hex(8)
            logger.exception("request failed", extra={"request_id": request_id, "method": scope["method"], "path": scope["path"]})
            if has_begun:
                raise
            rendered = _told_by(scope).render_message(500, "Internal server error", request_id=request_id)
            await _answer(scope, rendered)(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SdapiError)  # noqa: S101 - registered for nothing else
    rendered = _told_by(request.scope).render_error(error)
    if rendered.status >= 500:
        logger.error("request could not be served", exc_info=error, extra={"method": request.method, "path": request.scope["path"]})
    return _answer(request.scope, rendered)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    message = _ROUTING_MESSAGES.get(error.status_code, str(error.detail))
    rendered = _told_by(request.scope).render_message(error.status_code, message)
    # Never 200: no hosted service had anything at this path, so no client counts on it.
    return answer(Rendered(rendered.status, rendered.body, error.headers or {}))


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    problems = {str(problem["loc"][-1]): [f"The {problem['loc'][-1]} is not valid: {problem['msg']}."] for problem in error.errors()}
    return _answer(request.scope, _told_by(request.scope).render_error(InvalidRequest(problems)))


def _answer(scope: Scope, rendered: Rendered) -> Response:
    return answer(rendered, _dialect_of(scope), _services(scope).limits)


def _told_by(scope: Scope) -> _TellsErrors:
    return _dialect_of(scope) or plain


def _dialect_of(scope: Scope) -> Dialect | None:
    """The dialect whose paths begin like this one; the longest beginning counts."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    fits = [
        (len(prefix), dialect)
        for dialect in _services(scope).dialects.values()
        for prefix in dialect.PREFIXES
        if path == prefix or path.startswith(f"{prefix}/")
    ]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def _services(scope: Scope) -> Services:
    return cast("Services", scope["app"].state.services)
