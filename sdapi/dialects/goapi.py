"""GoAPI (`/sd/...`): wire JSON to `Asked`, and jobs and errors to wire JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field, JsonValue

from sdapi.domain.errors import SdapiError
from sdapi.domain.generation import MAX_SAMPLES, MAX_UPSCALE, ControlNet, Img2Img, Upscale
from sdapi.domain.job import Job, JobStatus
from sdapi.domain.picture_formats import SUFFIXES
from sdapi.domain.sent_file import SentFile

from . import answers
from .base import (
    Asked,
    Endpoint,
    FetchPath,
    Kind,
    Picture,
    PictureRole,
    ReadLimits,
    Rendered,
    checked,
    job_id_of,
    output_links,
    own_link,
    rejecting,
    scale_per_net,
    spelt,
    strength_per_lora,
)
from .wire_types import (
    Names,
    Number,
    PictureBody,
    Scalar,
    Scales,
    Seed,
    SentPicture,
    SidePx,
    Steps,
    Strengths,
    Text,
    TextList,
    WholeNumber,
    YesNo,
    between,
)

NAME = "goapi"
PREFIXES = ("/sd",)
ERRORS_ARE_200 = False

_DEFAULT_SIDE_PX = 512
_DEFAULT_STEPS = 30
_PICTURE = "http(s) URL, data: URL, base64, or a file of a multipart form"
_KEY_TIP = "Send an API key of this server in the X-API-KEY header, as Authorization: Bearer, or as key in the body."


class JobBody(PictureBody):
    """What every call that makes a job reads beyond what the hosted service had: ours in every dialect."""

    absent_words: ClassVar[Mapping[str, frozenset[str]]] = {"webhook": frozenset({"0"})}

    webhook: Text | None = Field(default=None, description="URL that is POSTed to when the job has ended")
    track_id: Scalar = Field(default=None, description="Told to the webhook in the type it came in")
    instant_response: YesNo = Field(default=False, description="Whether to be answered at once instead of held until the output is there")


class Txt2ImgBody(JobBody):
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

    init_image: SentPicture = Field(description=_PICTURE)
    strength: Annotated[Number, between(0, 1)] = Field(default=0.8, description="0 to 1; 1 ignores the init image")


class ControlNetBody(Txt2ImgBody):
    """What /sd/controlnet reads besides."""

    prompt: Text = ""
    init_image: SentPicture = Field(description=_PICTURE)
    control_image: SentPicture | None = Field(default=None, description="As init_image; without it init_image is the control image")
    mask_image: SentPicture | None = Field(default=None, description="As init_image")
    controlnet_model: Names = Field(description="Ids, separated by commas")
    controlnet_type: Text | None = Field(default=None, description="The annotator that makes the control map")
    controlnet_conditioning_scale: Scales = Field(default=(1.0,), description="0 to 20")
    strength: Annotated[Number, between(0, 1)] = Field(default=1.0, description="0 to 1; 1 ignores the init image")


class UpscaleBody(JobBody):
    """What /sd/upscale reads."""

    url: SentPicture = Field(validation_alias=AliasChoices("url", "init_image"), description=_PICTURE)
    scale: Annotated[Number, between(1, MAX_UPSCALE)] = Field(default=2, description="1 to 4")
    model_id: Text | None = Field(default=None, description="Id of the upscaling model")


def parse_txt2img(body: Mapping[str, object], limits: ReadLimits) -> Asked:
    """Raises InvalidRequest with the client's own field names."""
    with rejecting():
        read = Txt2ImgBody.model_validate(body, context={"max_side_px": limits.max_side_px})
    return _asked("txt2img", read, limits)


def parse_img2img(body: Mapping[str, object], limits: ReadLimits) -> Asked:
    """Raises InvalidRequest with the client's own field names."""
    with rejecting():
        read = Img2ImgBody.model_validate(body, context={"max_side_px": limits.max_side_px})
    pictures = (Picture("init_image", "init_image", read.init_image),)
    return replace(_asked("img2img", read, limits), pictures=pictures, strength=read.strength)


def parse_controlnet(body: Mapping[str, object], limits: ReadLimits) -> Asked:
    """Raises InvalidRequest with the client's own field names."""
    with rejecting():
        read = ControlNetBody.model_validate(body, context={"max_side_px": limits.max_side_px})
    given: tuple[tuple[PictureRole, str | SentFile | None], ...] = (
        ("init_image", read.init_image),
        ("control_image", read.control_image),
        ("mask_image", read.mask_image),
    )
    return replace(
        _asked("controlnet", read, limits),
        pictures=tuple(Picture(role, role, source) for role, source in given if source is not None),
        strength=read.strength,
        controlnet_models=read.controlnet_model,
        controlnet_type=read.controlnet_type,
        auto_hint=read.controlnet_type is not None,
        conditioning_scales=scale_per_net(len(read.controlnet_model), read.controlnet_conditioning_scale),
    )


def parse_upscale(body: Mapping[str, object], limits: ReadLimits) -> Asked:  # noqa: ARG001 - what every endpoint is given
    """Raises InvalidRequest with the client's own field names."""
    with rejecting():
        read = UpscaleBody.model_validate(body)
    picture = Picture("init_image", spelt(body, ("url", "init_image")), read.url)
    return Asked(
        kind="upscale",
        endpoint="upscale",
        pictures=(picture,),
        scale=read.scale,
        model_id=read.model_id,
        output_format=read.output_format,
        output_quality=read.output_quality,
        webhook=read.webhook,
        instant_response=read.instant_response,
        echo={"track_id": read.track_id},
    )


def parse_fetch(body: Mapping[str, object]) -> int | None:
    """See Dialect. `request_id` is what the other services called it."""
    return job_id_of(body.get("id", body.get("request_id")))


def output_names(asked: Asked, token: str, now: datetime) -> tuple[str, ...]:
    """See Dialect."""
    ending = SUFFIXES[asked.output_format]
    if asked.kind == "upscale":
        return (f"generations/{int(now.timestamp())}_{token}_out.{ending}",)
    return tuple(f"sd/{index}-{token}.{ending}" for index in range(asked.samples))


def render_job(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect."""
    if job.status is JobStatus.SUCCEEDED:
        if isinstance(job.request, Upscale):
            larger: dict[str, JsonValue] = {
                "generationTime": _seconds(job),
                "id": job.id,
                "output": output_links(job)[0],
                "status": "success",
            }
            return Rendered(200, larger | checked(job))
        drawn: dict[str, JsonValue] = {"status": "success", "generationTime": _seconds(job), "id": job.id, "output": output_links(job)}
        return Rendered(200, drawn | checked(job) | {"meta": _meta(job)})
    if job.status.is_final:
        return answers.render_failed(job)
    # "messege" is the hosted API's spelling; clients match on it.
    waiting: dict[str, JsonValue] = {"status": "processing", "eta": answers.eta_number(eta_s), "id": job.id}
    waiting |= {"messege": answers.ESTIMATED, "message": answers.ESTIMATED}
    return Rendered(200, waiting if isinstance(job.request, Upscale) else waiting | {"meta": _meta(job)})


def render_fetch(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect."""
    if job.status is JobStatus.SUCCEEDED:
        if job.files_removed:
            return answers.render_removed(job)
        return Rendered(200, {"status": "success", "id": job.id, "output": output_links(job), **checked(job)})
    if job.status.is_final:
        return answers.render_failed(job)
    pending: dict[str, JsonValue] = {"status": "processing", "id": job.id, "output": []}
    return Rendered(200, pending | {"messege": answers.PENDING, "message": answers.PENDING, "eta": answers.eta_number(eta_s)})


def render_error(error: SdapiError) -> Rendered:
    """See Dialect."""
    return answers.render_error(error, key_tip=_KEY_TIP, id_not_found_status=400)


def render_message(status: int, message: str, *, request_id: str | None = None) -> Rendered:
    """See Dialect."""
    return answers.render_message(status, message, request_id=request_id)


ENDPOINTS = (
    Endpoint("/sd/txt2img", "txt2img", Txt2ImgBody, parse_txt2img, "Draw what the prompt says.", sample="txt2img"),
    Endpoint("/sd/img2img", "img2img", Img2ImgBody, parse_img2img, "Draw what the prompt says, starting from a picture.", sample="img2img"),
    Endpoint(
        "/sd/controlnet", "controlnet", ControlNetBody, parse_controlnet, "Draw with a picture leading the structure.", sample="controlnet"
    ),
    Endpoint("/sd/upscale", "upscale", UpscaleBody, parse_upscale, "Make a picture larger.", sample="upscale"),
)
FETCH_PATHS = (FetchPath("/sd/fetch"),)


def _asked(kind: Kind, body: Txt2ImgBody, limits: ReadLimits) -> Asked:
    side_px = min(_DEFAULT_SIDE_PX, limits.max_side_px // 8 * 8)
    return Asked(
        kind=kind,
        endpoint=kind,
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
        lora_models=body.lora_model,
        lora_strengths=strength_per_lora(len(body.lora_model), body.lora_strength),
        output_format=body.output_format,
        output_quality=body.output_quality,
        webhook=body.webhook,
        instant_response=body.instant_response,
        echo={"track_id": body.track_id},
    )


def _meta(job: Job) -> dict[str, JsonValue]:
    request = job.request
    if isinstance(request, Upscale):
        return {}
    meta: dict[str, JsonValue] = {"prompt": request.prompt, "model_id": job.echo.get("model_id", request.checkpoint)}
    if isinstance(request, ControlNet):
        models = ",".join(request.controlnet_models)
        meta |= {"controlnet_model": models, "controlnet_type": request.controlnet_type or models}
    meta["negative_prompt"] = request.negative_prompt
    if isinstance(request, Img2Img):
        meta |= {"init_image": own_link(job, request.init_image), "strength": request.strength}
    if isinstance(request, ControlNet):
        meta |= {
            "guess_mode": "yes" if request.guess_mode else "no",
            "init_image": _input_link(job, request.init_image),
            "control_image": _input_link(job, request.control_image),
            "mask_image": _input_link(job, request.mask_image),
            "strength": f"{request.strength:g}",  # a string on the wire here, and only here
        }
    loras = ",".join(use.id for use in request.loras)
    return meta | {"W": request.width, "H": request.height, "seed": request.seed, "steps": request.steps, "lora": loras}


def _input_link(job: Job, name: str | None) -> str:
    return "" if name is None else own_link(job, name)


def _seconds(job: Job) -> float:
    return float(job.generation_time_s or 0)
