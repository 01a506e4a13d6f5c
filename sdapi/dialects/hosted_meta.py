"""`meta`, which repeats in an answer what was drawn: one row of keys per call, as the services had them.

Of the two shapes that text2img and its siblings had over the years, v3, v4, v5 and enterprise get the older one (`safetychecker`,
`outdir`), v6 the newer (`safety_checker`, `clip_skip`, `lora_strength`, ...). v3's text2img and img2img were seen with
`safetychecker` and with `safety_checker`; clients decode either, so both are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.job import Job
from sdapi.domain.picture_formats import SUFFIXES
from sdapi.domain.safety import DEFAULT_SAFETY_TYPE

from .base import file_prefix, own_link

_Drawing = Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video
_Value = Callable[[Job, _Drawing], JsonValue]


@dataclass(frozen=True)
class MetaRow:
    """The keys of one call's meta, in the order they are told."""

    keys: tuple[str, ...]
    differing: Mapping[str, _Value] = field(default_factory=dict)
    """Keys under which this row tells something else than the others do."""
    with_several_nets: tuple[str, ...] = ()
    """Keys that come with more than one control net only."""

    def of(self, job: Job) -> dict[str, JsonValue]:
        """What is told of the job."""
        request = job.request
        if isinstance(request, Upscale):
            return {}
        keys = self.keys
        if isinstance(request, ControlNet) and len(request.controlnet_models) > 1:
            keys += tuple(key for key in self.with_several_nets if key not in keys)
        return {key: (self.differing.get(key) or _VALUES[key])(job, request) for key in keys}


def yes_no(value: bool | None) -> str | None:  # noqa: FBT001 - the value itself
    """The services' word for it; None stays None."""
    return None if value is None else "yes" if value else "no"


def _input(job: Job, request: _Drawing, role: str) -> str | None:
    name = getattr(request, role, None)
    return own_link(job, name) if isinstance(name, str) else None


def _strength(request: _Drawing) -> JsonValue:
    if isinstance(request, ControlNet):
        return f"{request.strength:g}"  # a string on the wire here, and only here
    return request.strength if isinstance(request, Img2Img | Inpaint) else None


def _controlnet_model(request: _Drawing) -> str:
    return ",".join(request.controlnet_models) if isinstance(request, ControlNet) else ""


def _controlnet_type(request: _Drawing) -> str:
    named = request.controlnet_type if isinstance(request, ControlNet) else None
    return named or _controlnet_model(request)


def _scales(request: _Drawing) -> str:
    return ",".join(f"{scale:g}" for scale in request.conditioning_scales) if isinstance(request, ControlNet) else ""


def _lora_strength(job: Job, request: _Drawing) -> JsonValue:
    """One number, or as many as there are LoRAs where they differ."""
    strengths = [use.strength for use in request.loras]
    if len(set(strengths)) > 1:
        return ",".join(f"{strength:g}" for strength in strengths)
    return strengths[0] if strengths else job.echo.get("lora_strength", 1)


def _safety_checker(job: Job, request: _Drawing) -> JsonValue:
    """What was done, whatever was asked for: the operator may want all pictures checked."""
    return "yes" if request.safety is not None else job.echo.get("safety_checker", "no")


def _is_base64(job: Job) -> bool:
    return any(name.endswith(".base64") for name in job.output_names)


_VALUES: Mapping[str, _Value] = {
    "H": lambda _, request: request.height,
    "W": lambda _, request: request.width,
    "auto_hint": lambda _, request: yes_no(isinstance(request, ControlNet) and request.auto_hint),
    "base64": lambda job, _: yes_no(_is_base64(job)),
    "clip_skip": lambda _, request: request.clip_skip,
    "control_image": lambda job, request: _input(job, request, "control_image"),
    "controlnet_conditioning_scale": lambda _, request: _scales(request),
    "controlnet_model": lambda _, request: _controlnet_model(request),
    "controlnet_type": lambda _, request: _controlnet_type(request),
    "embeddings": lambda job, _: job.echo.get("embeddings"),
    "enable_attention_slicing": lambda *_: "true",
    "file_prefix": lambda job, _: file_prefix(job),
    "full_url": lambda *_: "no",
    "guess_mode": lambda _, request: yes_no(isinstance(request, ControlNet) and request.guess_mode),
    "guidance_scale": lambda _, request: request.guidance_scale,
    "height": lambda _, request: request.height,
    "init_image": lambda job, request: _input(job, request, "init_image"),
    "instant_response": lambda job, _: job.echo.get("instant_response", "no"),
    "lora": lambda job, request: ",".join(use.id for use in request.loras) or job.echo.get("lora"),
    "lora_strength": _lora_strength,
    "mask_image": lambda job, request: _input(job, request, "mask_image"),
    "model": lambda _, request: request.checkpoint,
    "model_id": lambda job, request: job.echo.get("model_id", request.checkpoint),
    "multi_lingual": lambda _, request: yes_no(request.multi_lingual),
    "n_samples": lambda _, request: request.samples,
    "negative_prompt": lambda _, request: request.negative_prompt,
    "outdir": lambda *_: "out",
    "panorama": lambda _, request: yes_no(request.panorama),
    "prompt": lambda _, request: request.prompt,
    "revision": lambda *_: "fp16",
    "safety_checker": _safety_checker,
    "safety_checker_type": lambda job, request: request.safety or job.echo.get("safety_checker_type", DEFAULT_SAFETY_TYPE),
    "safetychecker": _safety_checker,
    # Families that keep their own sampler leave none in the request, whatever the client named.
    "scheduler": lambda job, request: "default" if request.scheduler is None else job.echo.get("scheduler", request.scheduler.value),
    "seed": lambda _, request: request.seed,
    "self_attention": lambda _, request: yes_no(request.self_attention),
    "steps": lambda _, request: request.steps,
    "strength": lambda _, request: _strength(request),
    "temp": lambda job, _: yes_no(job.is_temporary),
    "tomesd": lambda _, request: yes_no(request.token_merging),
    "upscale": lambda job, _: job.echo.get("upscale", "no"),
    "use_karras_sigmas": lambda _, request: yes_no(bool(request.use_karras_sigmas)),
    "vae": lambda job, _: job.echo.get("vae"),
    "width": lambda _, request: request.width,
}


def _keys(row: str) -> tuple[str, ...]:
    return tuple(row.split())


def _vae(job: Job, _: _Drawing) -> JsonValue:
    return job.echo.get("vae", "stabilityai/sd-vae-ft-mse")


_MANY_NETS = _keys("control_image controlnet_conditioning_scale use_karras_sigmas tomesd vae lora_strength temp base64 clip_skip")
_NEWER = _keys("embeddings lora lora_strength tomesd use_karras_sigmas vae clip_skip temp base64")


def _newer(row: MetaRow) -> MetaRow:
    """The same call as the services told it later."""
    renamed = tuple("safety_checker" if key == "safetychecker" else key for key in row.keys if key != "outdir")
    return MetaRow(
        renamed + tuple(key for key in _NEWER if key not in renamed),
        differing={"file_prefix": lambda job, request: f"{file_prefix(job)}.{SUFFIXES[request.output_format]}"},
        with_several_nets=row.with_several_nets,
    )


V3 = MetaRow(
    _keys(
        "H W enable_attention_slicing file_prefix guidance_scale model n_samples negative_prompt outdir prompt revision "
        "safetychecker safety_checker seed steps vae"
    ),
    differing={"safety_checker": lambda *_: "none", "vae": _vae},
)
V3_INPAINT = MetaRow(
    _keys("H W file_prefix guidance_scale init_image mask_image n_samples negative_prompt outdir prompt safetychecker seed steps strength")
)
_DREAMBOOTH = (
    "H W embeddings file_prefix full_url guidance_scale {pictures} lora model_id n_samples negative_prompt outdir prompt safetychecker "
    "scheduler seed steps {strength} upscale"
)
V3_DREAMBOOTH = MetaRow(_keys(_DREAMBOOTH.format(pictures="", strength="")))
V3_DREAMBOOTH_IMG2IMG = MetaRow(_keys(_DREAMBOOTH.format(pictures="init_image", strength="strength")))
V3_DREAMBOOTH_INPAINT = MetaRow(_keys(_DREAMBOOTH.format(pictures="init_image mask_image", strength="")))

V4_TEXT2IMG = MetaRow(
    _keys(
        "prompt model_id negative_prompt scheduler safetychecker W H guidance_scale seed steps n_samples full_url upscale multi_lingual "
        "panorama self_attention embeddings lora outdir file_prefix"
    )
)
V4_IMG2IMG = MetaRow(
    _keys(
        "prompt model_id scheduler safetychecker negative_prompt W H guidance_scale init_image steps n_samples strength multi_lingual "
        "full_url upscale seed outdir file_prefix"
    )
)
V4_INPAINT = MetaRow(
    _keys(
        "prompt model_id scheduler safetychecker negative_prompt W H guidance_scale init_image mask_image steps n_samples multi_lingual "
        "full_url upscale seed outdir file_prefix"
    )
)
V5_CONTROLNET = MetaRow(
    _keys(
        "prompt model_id controlnet_model controlnet_type negative_prompt scheduler safetychecker auto_hint guess_mode strength W H "
        "guidance_scale seed multi_lingual init_image mask_image steps full_url upscale n_samples embeddings lora outdir file_prefix"
    ),
    with_several_nets=_MANY_NETS,
)

ENTERPRISE_TEXT2IMG = MetaRow(
    _keys(
        "prompt model_id negative_prompt scheduler revision safetychecker W H enable_attention_slicing file_prefix guidance_scale seed "
        "steps n_samples upscale multi_lingual panorama self_attention embeddings lora outdir vae"
    ),
    differing={"vae": _vae},
)

V6_TEXT2IMG = _newer(V4_TEXT2IMG)
V6_IMG2IMG = _newer(V4_IMG2IMG)
V6_INPAINT = _newer(V4_INPAINT)
V6_CONTROLNET = _newer(V5_CONTROLNET)
V6_REALTIME = MetaRow(
    _keys(
        "base64 file_prefix guidance_scale height instant_response n_samples negative_prompt outdir prompt safety_checker "
        "safety_checker_type seed temp width"
    )
)
