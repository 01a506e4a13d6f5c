"""stablediffusionapi.com v3, v4 and v5 (`/api/v3/...` and so on): wire JSON to `Asked`, and jobs and errors to wire JSON.

The versions share their fields and their answers, and a v4 or v5 job is fetched at a v3 path. They differ in this:
v3's own three calls need no `model_id`, and their answers have no `proxy_links`; v3 draws 20 steps by default, the others 30.
"""

from __future__ import annotations

from sdapi.domain.errors import SdapiError
from sdapi.domain.job import Job, JobStatus

from . import answers, hosted_answers, hosted_meta
from .base import FetchPath, Kind, Rendered
from .hosted_calls import HostedCall, endpoints_of
from .hosted_fields import ControlNetBody, DrawingBody, Img2ImgBody, InpaintBody, JobBody, UpscaleBody, VideoBody
from .hosted_meta import MetaRow

NAME = "v3"
PREFIXES = ("/api/v3", "/api/v4", "/api/v5")
ERRORS_ARE_200 = True

_FETCH = "/api/v3/fetch"
_DREAMBOOTH_FETCH = "/api/v3/dreambooth/fetch"
_V3_STEPS = 20
_LATER_STEPS = 30


def _call(name: str, kind: Kind, body: type[JobBody], meta: MetaRow | None = None, *, needs_model: bool = False) -> HostedCall:
    is_v3 = name.startswith("v3/")
    return HostedCall(
        name=name,
        paths=(f"/api/{name}",),
        kind=kind,
        body=body,
        meta=meta,
        fetch_path=_DREAMBOOTH_FETCH if "dreambooth" in name else _FETCH,
        sample=name.replace("/", "_"),
        needs_model=needs_model,
        default_steps=_V3_STEPS if is_v3 else _LATER_STEPS,
        has_proxy_links=not is_v3,
    )


CALLS = (
    _call("v3/text2img", "txt2img", DrawingBody, hosted_meta.V3),
    _call("v3/img2img", "img2img", Img2ImgBody, hosted_meta.V3),
    _call("v3/inpaint", "inpaint", InpaintBody, hosted_meta.V3_INPAINT),
    _call("v3/super_resolution", "upscale", UpscaleBody),
    _call("v3/dreambooth", "txt2img", DrawingBody, hosted_meta.V3_DREAMBOOTH, needs_model=True),
    _call("v3/dreambooth/img2img", "img2img", Img2ImgBody, hosted_meta.V3_DREAMBOOTH_IMG2IMG, needs_model=True),
    _call("v3/dreambooth/inpaint", "inpaint", InpaintBody, hosted_meta.V3_DREAMBOOTH_INPAINT, needs_model=True),
    _call("v4/dreambooth", "txt2img", DrawingBody, hosted_meta.V4_TEXT2IMG, needs_model=True),
    _call("v4/dreambooth/img2img", "img2img", Img2ImgBody, hosted_meta.V4_IMG2IMG, needs_model=True),
    _call("v4/dreambooth/inpaint", "inpaint", InpaintBody, hosted_meta.V4_INPAINT, needs_model=True),
    _call("v4/dreambooth/text2video", "text2video", VideoBody),
    _call("v5/controlnet", "controlnet", ControlNetBody, hosted_meta.V5_CONTROLNET, needs_model=True),
    _call("v5/super_resolution", "upscale", UpscaleBody),
    _call("v5/text2video", "text2video", VideoBody),
)
ENDPOINTS = endpoints_of(CALLS)
FETCH_PATHS = (
    FetchPath("/api/v3/fetch"),
    FetchPath("/api/v3/fetch/{id}"),
    FetchPath("/api/v3/dreambooth/fetch"),
    FetchPath("/api/v3/dreambooth/fetch/{id}"),
    FetchPath("/api/v4/dreambooth/fetch"),
    FetchPath("/api/v4/dreambooth/fetch/{id}"),
)

parse_fetch = hosted_answers.parse_fetch
output_names = hosted_answers.output_names
render_fetch = hosted_answers.render_fetch
render_message = answers.render_message


def render_job(job: Job, *, eta_s: float) -> Rendered:
    """See Dialect."""
    call = hosted_answers.call_of(job, CALLS)
    if job.status is JobStatus.SUCCEEDED:
        return Rendered(200, hosted_answers.success(job, call))
    if job.status.is_final:
        return answers.render_failed(job)
    return Rendered(200, hosted_answers.processing(job, call, eta=answers.eta_number(eta_s)))


def render_error(error: SdapiError) -> Rendered:
    """See Dialect."""
    return hosted_answers.render_error(error)
