"""modelslab.com v6 (`/api/v6/...`): wire JSON to `Asked`, and jobs and errors to wire JSON.

Unlike its forerunners it tells errors by HTTP status, counts `eta` in whole seconds, lists even a lone upscaled picture, and repeats
`meta` when a finished job is fetched.
"""

from __future__ import annotations

from sdapi.domain.errors import SdapiError
from sdapi.domain.generation import Upscale
from sdapi.domain.job import Job, JobStatus

from . import answers, hosted_answers, hosted_meta
from .base import FetchPath, Kind, Rendered, own_links
from .hosted_calls import HostedCall, endpoints_of
from .hosted_fields import ControlNetBody, DrawingBody, EditingUpscaleBody, Img2ImgBody, InpaintBody, JobBody
from .hosted_meta import MetaRow

NAME = "v6"
PREFIXES = ("/api/v6",)
ERRORS_ARE_200 = False

_MAX_STEPS = 50
_GROUPS = ("images", "realtime", "image_editing")


def _call(name: str, kind: Kind, body: type[JobBody], meta: MetaRow | None = None) -> HostedCall:
    group = name.partition("/")[0]
    return HostedCall(
        name=f"v6/{name}",
        paths=(f"/api/v6/{name}",),
        kind=kind,
        body=body,
        meta=meta,
        fetch_path=f"/api/v6/{group}/fetch",
        sample=name.replace("/", "_"),
        needs_model=group == "images",
        max_steps=_MAX_STEPS,
    )


CALLS = (
    _call("images/text2img", "txt2img", DrawingBody, hosted_meta.V6_TEXT2IMG),
    _call("images/img2img", "img2img", Img2ImgBody, hosted_meta.V6_IMG2IMG),
    _call("images/inpaint", "inpaint", InpaintBody, hosted_meta.V6_INPAINT),
    _call("images/controlnet", "controlnet", ControlNetBody, hosted_meta.V6_CONTROLNET),
    _call("realtime/text2img", "txt2img", DrawingBody, hosted_meta.V6_REALTIME),
    _call("realtime/img2img", "img2img", Img2ImgBody, hosted_meta.V6_REALTIME),
    _call("realtime/inpaint", "inpaint", InpaintBody, hosted_meta.V6_REALTIME),
    _call("image_editing/super_resolution", "upscale", EditingUpscaleBody),
    _call("image_editing/inpaint", "inpaint", InpaintBody, hosted_meta.V6_INPAINT),
)
ENDPOINTS = endpoints_of(CALLS)
FETCH_PATHS = tuple(FetchPath(f"/api/v6/{group}/fetch{end}") for group in _GROUPS for end in ("", "/{id}"))

parse_fetch = hosted_answers.parse_fetch
output_names = hosted_answers.output_names
render_message = answers.render_message


def render_job(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect."""
    call = hosted_answers.call_of(job, CALLS)
    if job.status is JobStatus.SUCCEEDED:
        return Rendered(200, hosted_answers.success(job, call, upscaled_as_text=False))
    if job.status.is_final:
        return answers.render_failed(job)
    waiting = hosted_answers.processing(job, call, eta=hosted_answers.whole_eta(eta_s))
    return Rendered(200, waiting | ({"proxy_links": own_links(job)} if isinstance(job.request, Upscale) else {}))


def render_fetch(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect. A finished job is told with all that the first answer would have had."""
    if job.status is JobStatus.SUCCEEDED:
        return answers.render_removed(job) if job.files_removed else render_job(job, eta_s=eta_s)
    if job.status.is_final:
        return answers.render_failed(job)
    return Rendered(200, hosted_answers.pending(job, eta=hosted_answers.whole_eta(eta_s)))


def render_error(error: SdapiError) -> Rendered:
    """See Dialect."""
    return hosted_answers.render_error(error)
