"""GoAPI (`/sd/...`): wire JSON to `Asked`, and jobs and errors to wire JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AliasChoices, Field, JsonValue

from sdapi.domain.errors import InvalidRequest, JobNotFound, ModelNotFound, NotAuthorised, PictureUnavailable, QueueFull, SdapiError
from sdapi.domain.generation import MAX_SAMPLES, Img2Img
from sdapi.domain.job import Job, JobStatus

from .base import Asked, Rendered, job_id_of, rejecting
from .wire_types import LongText, Number, Seed, SidePx, Steps, Strengths, Text, TextList, WholeNumber, WireBody, between

_DEFAULT_SIDE_PX = 512
_DEFAULT_STEPS = 30
_MODELS_NAMED = 50
"""How many ids the tip about an unknown model lists at most."""


class Txt2ImgBody(WireBody):
    """What /sd/txt2img reads. Every number may be a string; null, "" and "null" mean not given."""

    model_id: Text | None = None
    prompt: Text
    negative_prompt: Text = ""
    width: SidePx | None = Field(default=None, description="64 to 1024 (a setting), rounded down to a multiple of 8; default 512")
    height: SidePx | None = Field(default=None, description="As width")
    seed: Seed = Field(default=None, description="0 to 4294967295; null or -1 for a random one")
    samples: Annotated[WholeNumber, between(1, MAX_SAMPLES)] = Field(default=1, description="1 to 4")
    num_inference_steps: Steps | None = Field(
        default=None,
        validation_alias=AliasChoices("num_inference_steps", "steps"),
        description="1 to 51, more is lowered to 51; default 30",
    )
    guidance_scale: Annotated[Number, between(1, 20)] | None = Field(
        default=None, validation_alias=AliasChoices("guidance_scale", "guidance"), description="1 to 20; default 7.5"
    )
    lora_model: TextList = Field(default=(), validation_alias=AliasChoices("lora_model", "lora"), description="Ids, separated by commas")
    lora_strength: Strengths = Field(default=(), description="One number for all, or as many as there are in lora_model")


class Img2ImgBody(Txt2ImgBody):
    """What /sd/img2img reads besides."""

    init_image: LongText = Field(description="http(s) URL, data: URL or base64")
    strength: Annotated[Number, between(0, 1)] = Field(default=0.8, description="0 to 1; 1 ignores the init image")


class FetchBody(WireBody):
    """What /sd/fetch reads; only documentation, because a malformed id is answered like an unknown one."""

    id: int


def parse_txt2img(body: Mapping[str, object], *, max_side_px: int) -> Asked:
    """Raises InvalidRequest with the client's own field names."""
    with rejecting():
        read = Txt2ImgBody.model_validate(body, context={"max_side_px": max_side_px})
    return _asked(read, max_side_px)


def parse_img2img(body: Mapping[str, object], *, max_side_px: int) -> Asked:
    """Raises InvalidRequest with the client's own field names."""
    with rejecting():
        read = Img2ImgBody.model_validate(body, context={"max_side_px": max_side_px})
    return _asked(read, max_side_px)


def parse_fetch(body: Mapping[str, object]) -> int | None:
    """The id that is asked for; None when it can't be one, which gets the answer of an unknown id."""
    return job_id_of(body.get("id"))


def output_name(index: int, token: str) -> str:
    """See Dialect."""
    return f"sd/{index}-{token}.png"


def render_job(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect."""
    if job.status is JobStatus.SUCCEEDED:
        return Rendered(
            200,
            {
                "status": "success",
                "generationTime": float(job.generation_time_s or 0),
                "id": job.id,
                "output": _links(job),
                "meta": _meta(job),
            },
        )
    if job.status.is_final:
        return _failed(job)
    # "messege" is the hosted API's spelling; clients match on it.
    estimated = "Try to fetch request after seconds estimated"
    return Rendered(
        200,
        {"status": "processing", "eta": _eta(eta_s), "id": job.id, "messege": estimated, "message": estimated, "meta": _meta(job)},
    )


def render_fetch(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect."""
    if job.status is JobStatus.SUCCEEDED:
        if job.files_removed:
            removed = "The images of this request were removed after the retention time."
            return Rendered(400, _failed_body(job, message=removed, reason=removed))
        return Rendered(200, {"status": "success", "id": job.id, "output": _links(job)})
    if job.status.is_final:
        return _failed(job)
    pending = "Request processing"
    return Rendered(200, {"status": "processing", "id": job.id, "output": [], "messege": pending, "message": pending, "eta": _eta(eta_s)})


def render_error(error: SdapiError) -> Rendered:
    """See Dialect."""
    match error:
        case InvalidRequest(problems=problems):
            return Rendered(400, _error_body({name: list(sentences) for name, sentences in problems.items()}))
        case NotAuthorised():
            tip = "Send an API key of this server in the X-API-KEY header, as Authorization: Bearer, or as key in the body."
            return Rendered(401, _error_body("Invalid Api Key", tip=tip))
        case ModelNotFound(available=available):
            return Rendered(400, _error_body("Model id not found", tip=_models_tip(available)))
        case JobNotFound():
            return render_message(400, "Id not found")
        case QueueFull(retry_after_s=retry_after_s):
            tips = f"The server has as many requests as it takes at once, please wait for {retry_after_s} seconds and try again"
            return Rendered(429, _error_body("Rate limit exceeded", tips=tips), {"Retry-After": str(retry_after_s)})
        case PictureUnavailable():
            return render_message(400, "Image not found")
        case _:
            return render_message(500, "The server could not serve this request")


def render_message(status: int, message: str, *, request_id: str | None = None) -> Rendered:
    """See Dialect."""
    extra: dict[str, JsonValue] = {} if request_id is None else {"request_id": request_id}
    return Rendered(status, _error_body(message, **extra))


def _asked(body: Txt2ImgBody, max_side_px: int) -> Asked:
    side_px = min(_DEFAULT_SIDE_PX, max_side_px // 8 * 8)
    is_img2img = isinstance(body, Img2ImgBody)
    return Asked(
        kind="img2img" if is_img2img else "txt2img",
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        model_id=None if body.model_id is None else body.model_id.strip(),
        width=body.width or side_px,
        height=body.height or side_px,
        seed=body.seed,
        samples=body.samples,
        steps=body.num_inference_steps,
        default_steps=_DEFAULT_STEPS,
        guidance_scale=body.guidance_scale,
        strength=body.strength if isinstance(body, Img2ImgBody) else 0.8,
        init_image=body.init_image.strip() if isinstance(body, Img2ImgBody) else None,
        lora_models=body.lora_model,
        lora_strengths=_strength_per_lora(body),
    )


def _strength_per_lora(body: Txt2ImgBody) -> tuple[float, ...]:
    strengths, loras = body.lora_strength or (1.0,), len(body.lora_model)
    if len(strengths) == 1 or not loras:
        return strengths[:1] * loras
    if len(strengths) != loras:
        raise InvalidRequest.of("lora_strength", f"The lora_strength must be one number, or {loras}: one for each lora_model.")
    return strengths


def _meta(job: Job) -> dict[str, JsonValue]:
    request = job.request
    meta: dict[str, JsonValue] = {
        "prompt": request.prompt,
        "model_id": job.echo.get("model_id", request.checkpoint),
        "negative_prompt": request.negative_prompt,
    }
    if isinstance(request, Img2Img):
        meta |= {"init_image": _link(job, request.init_image), "strength": request.strength}
    return meta | {"W": request.width, "H": request.height, "seed": request.seed, "steps": request.steps, "lora": ""}


def _link(job: Job, name: str) -> str:
    return f"{job.public_url}/images/{name}"


def _links(job: Job) -> list[JsonValue]:
    return [_link(job, name) for name in job.output_names]


def _eta(eta_s: float) -> float:
    return round(max(float(eta_s), 0.0), 2)


def _failed(job: Job) -> Rendered:
    # The documented shape leaves "id" and "output" empty and came with 200; what a person needs to know is added.
    if job.status is JobStatus.CANCELLED:
        cancelled = "The request was cancelled."
        return Rendered(200, _failed_body(job, message=cancelled, reason=cancelled))
    return Rendered(200, _failed_body(job, message="Failed, Try Again", reason=job.error or "The drawing failed."))


def _failed_body(job: Job, *, message: str, reason: str) -> dict[str, JsonValue]:
    return {"status": "failed", "id": "", "message": message, "messege": message, "output": "", "request_id": job.id, "error": reason}


def _error_body(message: JsonValue, **extra: JsonValue) -> dict[str, JsonValue]:
    # Some clients read only the misspelt key, some only the right one.
    return {"status": "error", "message": message, "messege": message, **extra}


def _models_tip(available: tuple[str, ...]) -> str:
    if not available:
        return "There are no models on this server."
    named = ", ".join(available[:_MODELS_NAMED]) + (", ..." if len(available) > _MODELS_NAMED else "")
    return f"Models on this server: {named}. Without model_id its default model draws."
