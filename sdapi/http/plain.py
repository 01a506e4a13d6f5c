"""Errors of our own routes, which belong to no hosted dialect: true status codes, one message."""

from __future__ import annotations

from pydantic import JsonValue

from sdapi.dialects.base import Rendered
from sdapi.domain.errors import InvalidRequest, JobNotFound, ModelNotFound, NotAuthorised, PictureUnavailable, QueueFull, SdapiError


def render_error(error: SdapiError) -> Rendered:
    """See Dialect."""
    match error:
        case InvalidRequest(problems=problems):
            return Rendered(400, {"status": "error", "message": {name: list(sentences) for name, sentences in problems.items()}})
        case NotAuthorised():
            return render_message(401, "Invalid Api Key")
        case ModelNotFound():
            return render_message(404, "Model id not found")
        case JobNotFound():
            return render_message(404, "Id not found")
        case QueueFull(retry_after_s=retry_after_s):
            return Rendered(429, render_message(429, "Rate limit exceeded").body, {"Retry-After": str(retry_after_s)})
        case PictureUnavailable(retry_after_s=retry_after_s):
            # A cache that kept this 404 would hide the picture once it is drawn.
            headers = {"Cache-Control": "no-store"} | ({"Retry-After": str(retry_after_s)} if retry_after_s else {})
            return Rendered(404, render_message(404, "Image not found").body, headers)
        case _:
            return render_message(500, "The server could not serve this request")


def render_message(status: int, message: str, *, request_id: str | None = None) -> Rendered:
    """See Dialect."""
    extra: dict[str, JsonValue] = {} if request_id is None else {"request_id": request_id}
    return Rendered(status, {"status": "error", "message": message, **extra})
