"""Answers that are alike in all hosted dialects: refusals and failed jobs."""

from __future__ import annotations

from pydantic import JsonValue

from sdapi.domain.errors import (
    InvalidRequest,
    JobNotFound,
    ModelNotFound,
    NotAllowed,
    NotAuthorised,
    NotAvailable,
    PictureUnavailable,
    QueueFull,
    SdapiError,
)
from sdapi.domain.job import Job, JobStatus

from .base import Rendered

ESTIMATED = "Try to fetch request after seconds estimated"
PENDING = "Request processing"
_DEFAULT_DRAWS = "Without model_id its default model draws."
_MODELS_NAMED = 50
"""How many ids the tip about an unknown model lists at most."""


def render_error(error: SdapiError, *, key_tip: str, id_not_found_status: int, models_tip: str = _DEFAULT_DRAWS) -> Rendered:
    """A request that was refused. Statuses are those of HTTP's own meaning, except for an unknown id, where the dialects differ.

    `models_tip` says what to do about a model that there isn't, besides choosing one of those named.
    """
    match error:
        case InvalidRequest(problems=problems):
            return Rendered(400, error_body({name: list(sentences) for name, sentences in problems.items()}))
        case NotAuthorised():
            return Rendered(401, error_body("Invalid Api Key", tip=key_tip))
        case NotAllowed():
            return Rendered(401, error_body("Invalid Api Key", tip="This call needs an enterprise key (`sdapi keys create --enterprise`)."))
        case ModelNotFound(model_id="", available=()):
            return Rendered(400, error_body("Model id not found", tip=f"This call needs a model_id. {models_tip}"))
        case ModelNotFound(available=available):
            return Rendered(400, error_body("Model id not found", tip=_models_named(available, models_tip)))
        case JobNotFound():
            return render_message(id_not_found_status, "Id not found")
        case QueueFull(retry_after_s=retry_after_s, reason=reason):
            return Rendered(429, error_body("Rate limit exceeded", tips=reason), {"Retry-After": str(retry_after_s)})
        case NotAvailable():
            return render_message(400, str(error))
        case PictureUnavailable():
            return render_message(400, "Image not found")
        case _:
            return render_message(500, "The server could not serve this request")


def render_message(status: int, message: str, *, request_id: str | None = None) -> Rendered:
    """See Dialect."""
    extra: dict[str, JsonValue] = {} if request_id is None else {"request_id": request_id}
    return Rendered(status, error_body(message, **extra))


def render_failed(job: Job) -> Rendered:
    """A job that came to nothing. The documented shape leaves `id` and `output` empty and came with 200; what a person needs is added."""
    if job.status is JobStatus.CANCELLED:
        cancelled = "The request was cancelled."
        return Rendered(200, _failed_body(job, message=cancelled, reason=cancelled))
    return Rendered(200, _failed_body(job, message="Failed, Try Again", reason=job.error or "The drawing failed."))


def render_removed(job: Job) -> Rendered:
    """A job whose pictures retention has removed, or their owner."""
    removed = "The images of this request were removed after the retention time."
    return Rendered(400, _failed_body(job, message=removed, reason=removed))


def error_body(message: JsonValue, **extra: JsonValue) -> dict[str, JsonValue]:
    """Some clients read only the misspelt key, some only the right one."""
    return {"status": "error", "message": message, "messege": message, **extra}


def eta_number(eta_s: float) -> float:
    """Seconds as a number with at most two decimals."""
    return round(max(float(eta_s), 0.0), 2)


def _failed_body(job: Job, *, message: str, reason: str) -> dict[str, JsonValue]:
    return {"status": "failed", "id": "", "message": message, "messege": message, "output": "", "request_id": job.id, "error": reason}


def _models_named(available: tuple[str, ...], models_tip: str) -> str:
    if not available:
        return "There are no models on this server."
    named = ", ".join(available[:_MODELS_NAMED]) + (", ..." if len(available) > _MODELS_NAMED else "")
    return f"Models on this server: {named}. {models_tip}"
