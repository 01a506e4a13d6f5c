"""stablediffusionapi.com's plan for one's own servers (`/api/v1/enterprise/...`): wire JSON to `Asked`, and jobs and errors to wire JSON.

Fields and answers are those of v4 and v5. Every call is found at three places: where it is documented, and where two client libraries
look for it.
"""

from __future__ import annotations

from sdapi.domain.errors import SdapiError
from sdapi.domain.job import Job, JobStatus

from . import answers, hosted_answers, hosted_meta
from .base import FetchPath, Kind, Rendered, own_links
from .hosted_calls import HostedCall, endpoints_of
from .hosted_fields import ControlNetBody, DrawingBody, EditingUpscaleBody, Img2ImgBody, InpaintBody, JobBody, UpscaleBody, VideoBody
from .hosted_meta import MetaRow

NAME = "enterprise"
PREFIXES = ("/api/v1/enterprise",)
ERRORS_ARE_200 = True

FOLDERS = ("/api/v1/enterprise", "/api/v1/enterprise/images", "/api/v1/enterprise/txt2img")
"""Where each call is found; the documented place first."""


_SDK_GROUPS = ("realtime", "image_editing")
"""Folders of v6 that the vendor's own client looks for here, too, when it is told to use an enterprise server."""


def _call(name: str, kind: Kind, body: type[JobBody], meta: MetaRow | None = None, *, needs_model: bool = True) -> HostedCall:
    group = name.rpartition("/")[0]
    return HostedCall(
        name=f"enterprise/{name}",
        paths=tuple(f"{folder}/{name}" for folder in (FOLDERS[:1] if group else FOLDERS)),
        kind=kind,
        body=body,
        meta=meta,
        fetch_path=f"{FOLDERS[0]}/fetch",
        # The lone link of an upscaled picture is a string here, so the documented sample is the flat call's.
        sample=name.rpartition("/")[2] if kind == "upscale" else name.replace("/", "_"),
        needs_model=needs_model,
        default_auto_hint=False,
        default_safety_checker=True,
    )


CALLS = (
    _call("text2img", "txt2img", DrawingBody, hosted_meta.ENTERPRISE_TEXT2IMG),
    _call("img2img", "img2img", Img2ImgBody, hosted_meta.V4_IMG2IMG),
    _call("inpaint", "inpaint", InpaintBody, hosted_meta.V4_INPAINT),
    _call("controlnet", "controlnet", ControlNetBody, hosted_meta.V5_CONTROLNET),
    _call("text2video", "text2video", VideoBody),
    _call("super_resolution", "upscale", UpscaleBody, needs_model=False),
    _call("realtime/text2img", "txt2img", DrawingBody, hosted_meta.V6_REALTIME, needs_model=False),
    _call("realtime/img2img", "img2img", Img2ImgBody, hosted_meta.V6_REALTIME, needs_model=False),
    _call("realtime/inpaint", "inpaint", InpaintBody, hosted_meta.V6_REALTIME, needs_model=False),
    _call("image_editing/super_resolution", "upscale", EditingUpscaleBody, needs_model=False),
    _call("image_editing/inpaint", "inpaint", InpaintBody, hosted_meta.V6_INPAINT, needs_model=False),
)
ENDPOINTS = endpoints_of(CALLS)
_FETCH_FOLDERS = (*FOLDERS, *(f"{FOLDERS[0]}/{group}" for group in _SDK_GROUPS))
FETCH_PATHS = tuple(FetchPath(f"{folder}/fetch{end}") for folder in _FETCH_FOLDERS for end in ("", "/{id}"))

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
    waiting = hosted_answers.processing(job, call, eta=answers.eta_number(eta_s))
    # What an enterprise client calls future_links.
    return Rendered(200, waiting | {"image_links": own_links(job)})


def render_error(error: SdapiError) -> Rendered:
    """See Dialect."""
    return hosted_answers.render_error(error, model_list=f"{FOLDERS[0]}/get_all_models")
