"""Answers about jobs as stablediffusionapi.com gave them in all versions; a dialect says where its own differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import JsonValue

from sdapi.domain.errors import SdapiError
from sdapi.domain.generation import Upscale
from sdapi.domain.job import Job, JobStatus
from sdapi.domain.picture_formats import SUFFIXES

from . import answers
from .base import Asked, Rendered, checked, job_id_of, output_links, own_links
from .hosted_calls import HostedCall

KEY_TIP = (
    "1. Make sure you are passing Content-Type: application/json in header. 2. Make sure you are doing POST request with valid JSON. "
    "3. Make sure your JSON does not have error, use jsonlint to validate json array. 4. Make sure you have valid API key."
)


def parse_fetch(body: Mapping[str, object]) -> int | None:
    """See Dialect. The id is `request_id`; some clients send it as the answers call it."""
    asked = (job_id_of(body.get(name)) for name in ("request_id", "id"))
    return next((job_id for job_id in asked if job_id is not None), None)


def output_names(asked: Asked, token: str, now: datetime) -> tuple[str, ...]:
    """See Dialect."""
    folder = "temp" if asked.temp else "generations"
    ending = "base64" if asked.base64_output else SUFFIXES[asked.output_format]
    if asked.kind == "upscale":
        return (f"{folder}/{int(now.timestamp())}_{token}_out.{ending}",)
    if asked.kind == "text2video":
        return (f"{folder}/{token}-0.mp4",)
    return tuple(f"{folder}/{token}-{index}.{ending}" for index in range(asked.samples))


def call_of(job: Job, calls: Sequence[HostedCall]) -> HostedCall:
    """The call that made the job; the first when the job names none of them."""
    return next((call for call in calls if call.name == job.echo.get("endpoint")), calls[0])


def success(job: Job, call: HostedCall, *, upscaled_as_text: bool = True) -> dict[str, JsonValue]:
    """The answer with the output. Upscaled pictures came as a lone string, but for v6."""
    links = output_links(job)
    is_lone = upscaled_as_text and isinstance(job.request, Upscale)
    body: dict[str, JsonValue] = {"status": "success", "generationTime": float(job.generation_time_s or 0), "id": job.id}
    body["output"] = links[0] if is_lone else links
    if call.has_proxy_links:
        body |= {"proxy_links": own_links(job), "nsfw_content_detected": None}
    body |= checked(job)
    return body | ({} if call.meta is None else {"meta": call.meta.of(job)})


def processing(job: Job, call: HostedCall, *, eta: float) -> dict[str, JsonValue]:
    """The answer while the job is waiting or drawn."""
    fetch_result = f"{job.public_url}{call.fetch_path}/{job.id}"
    look_up = "Your image is processing in background, you can get this image using fetch API: here is link for fetch api : "
    return {
        "status": "processing",
        "tip": look_up + fetch_result,
        "eta": eta,
        # "messege" is the hosted API's spelling; clients match on it.
        "messege": answers.ESTIMATED,
        "message": answers.ESTIMATED,
        "webhook_status": "",
        "fetch_result": fetch_result,
        "id": job.id,
        "output": [],
        "meta": {} if call.meta is None else call.meta.of(job),
        "future_links": own_links(job),
    }


def fetched(job: Job) -> dict[str, JsonValue]:
    """The answer to a look-up of a finished job."""
    return {"status": "success", "id": job.id, "output": output_links(job), **checked(job)}


def pending(job: Job, *, eta: float) -> dict[str, JsonValue]:
    """The answer to a look-up of a job that is waiting or drawn."""
    return {
        "status": "processing",
        "id": job.id,
        "output": [],
        "messege": answers.PENDING,
        "message": answers.PENDING,
        "eta": eta,
    }


def whole_eta(eta_s: float) -> int:
    """Seconds as v6 tells them. At least 1: clients sleep for so long and then ask again."""
    return max(1, math.ceil(eta_s))


def render_fetch(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect. The answer of all but v6."""
    if job.status is JobStatus.SUCCEEDED:
        return answers.render_removed(job) if job.files_removed else Rendered(200, fetched(job))
    if job.status.is_final:
        return answers.render_failed(job)
    return Rendered(200, pending(job, eta=answers.eta_number(eta_s)))


def render_error(error: SdapiError, *, model_list: str = "/api/v4/dreambooth/model_list") -> Rendered:
    """See Dialect. `model_list` is the path that tells what models there are."""
    return answers.render_error(
        error, key_tip=KEY_TIP, id_not_found_status=404, models_tip=f"POST {model_list} lists the models of this server."
    )
