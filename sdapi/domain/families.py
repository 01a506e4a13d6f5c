"""Families of models, and what of a request each of them honours: read where requests come in, where pictures are drawn and by the docs.

`PARAMETERS` is the one place that says so. A family that can't do something refuses it by name before anything is drawn, so that
nobody gets a picture of something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from .generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img

UnetFamily = Literal["sd1", "sd2", "sdxl"]
"""Drawn by the joint loop."""
WholeFamily = Literal["sd3", "flux", "qwen_image", "z_image", "other"]
"""Drawn by a whole pipeline; "other" is any further one of diffusers that draws from words."""
FilmFamily = Literal["modelscope", "animatediff", "wan"]
"""Draw films, by whole pipelines too."""
Family = UnetFamily | WholeFamily | FilmFamily

UNET_FAMILIES: tuple[UnetFamily, ...] = get_args(UnetFamily)
WHOLE_FAMILIES: tuple[WholeFamily, ...] = get_args(WholeFamily)
FILM_FAMILIES: tuple[FilmFamily, ...] = get_args(FilmFamily)
ALL_FAMILIES: tuple[Family, ...] = (*UNET_FAMILIES, *WHOLE_FAMILIES)
"""Those that draw pictures."""
_STARTS_FROM_PICTURES: tuple[Family, ...] = (*UNET_FAMILIES, "sd3", "flux", "qwen_image", "z_image")

FAMILY_NAMES: Mapping[Family, str] = {
    "sd1": "Stable Diffusion 1.x (sd1)",
    "sd2": "Stable Diffusion 2.x (sd2)",
    "sdxl": "Stable Diffusion XL (sdxl)",
    "sd3": "Stable Diffusion 3 (sd3)",
    "flux": "Flux (flux)",
    "qwen_image": "Qwen-Image (qwen_image)",
    "z_image": "Z-Image (z_image)",
    "other": "other diffusers pipeline (other)",
    "modelscope": "ModelScope text to video (modelscope)",
    "animatediff": "AnimateDiff (animatediff)",
    "wan": "Wan (wan)",
}

DEFAULT_GUIDANCE: Mapping[Family, float] = {
    **dict.fromkeys(UNET_FAMILIES, 7.5),
    "sd3": 7.0,
    "flux": 3.5,
    "qwen_image": 4.0,
    "z_image": 5.0,
    "other": 4.5,
    "modelscope": 9.0,
    "animatediff": 7.5,
    "wan": 5.0,
}
"""Where neither the request nor the model's sidecar says one."""

_SAMPLER_FIELDS = ("scheduler", "use_karras_sigmas", "algorithm_type")

Drawing = Txt2Img | Img2Img | Inpaint | ControlNet
DrawingOrFilm = Drawing | Text2Video
Honour = Literal["yes", "own", "no effect", "refused"]
"""`own`: the model's own is used in its stead, and the answer says so. `no effect`: it means nothing to the family's samplers."""


@dataclass(frozen=True)
class Parameter:
    """Something a request may say of a drawing."""

    field: str
    """As the hosted services spell it."""
    families: tuple[Family, ...] = ALL_FAMILIES
    """Those that honour it."""
    otherwise: Honour = "yes"
    """What becomes of it in the other families."""
    what: str = ""
    """What is refused, as the beginning of a sentence; needed where `otherwise` is "refused"."""
    asked: Callable[[DrawingOrFilm], bool] = lambda _: True
    """Whether a request asks for it."""
    note: str = ""
    """What there is to know beyond yes and no."""

    def honour(self, family: Family) -> Honour:
        """What becomes of it in this family."""
        return "yes" if family in self.families else self.otherwise


def _refused(field: str, what: str, asked: Callable[[DrawingOrFilm], bool], families: tuple[Family, ...] = UNET_FAMILIES) -> Parameter:
    return Parameter(field, families, "refused", what, asked)


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("prompt", note="Whole pipelines read it literally: no weights in brackets."),
    Parameter("negative_prompt", note="flux: asks for true guidance, at two forwards a step. other: where the pipeline takes one."),
    Parameter("width", note="Whole pipelines draw at the next multiple of 16 (32 where they need it) and fit the picture back."),
    Parameter("height", note="As width."),
    Parameter("seed"),
    Parameter("samples"),
    Parameter("num_inference_steps"),
    Parameter("guidance_scale", note="flux: of the distilled guidance; with a negative prompt, and in qwen_image, true guidance."),
    Parameter("scheduler", UNET_FAMILIES, "own", note="Pipelines of flow-matching models keep the sampler they were made for."),
    Parameter("use_karras_sigmas", UNET_FAMILIES, "no effect"),
    Parameter("algorithm_type", UNET_FAMILIES, "no effect"),
    Parameter("tomesd", UNET_FAMILIES, "no effect"),
    _refused("init_image", "Starting from a picture", lambda request: isinstance(request, Img2Img), _STARTS_FROM_PICTURES),
    _refused("mask_image", "Drawing a masked part anew", lambda request: isinstance(request, Inpaint), _STARTS_FROM_PICTURES),
    _refused("controlnet_model", "Leading by control nets", lambda request: isinstance(request, ControlNet)),
    _refused("lora_model", "Adding LoRAs", lambda request: bool(request.loras)),
    _refused("embeddings_model", "Adding textual inversions", lambda request: bool(request.embeddings)),
    _refused("vae", "Another VAE", lambda request: request.vae is not None),
    _refused("clip_skip", "Skipping layers of the text encoder", lambda request: request.clip_skip > 1),
    _refused("panorama", "Panorama", lambda request: request.panorama),
    _refused("self_attention", "Self-attention guidance", lambda request: request.self_attention),
    _refused("highres_fix", "The high-resolution fix", lambda request: request.highres_fix),
    Parameter("enhance_prompt"),
    Parameter("safety_checker"),
    Parameter("multi_lingual"),
    Parameter("upscale"),
)

GOES_WITH: Mapping[str, str] = {
    "strength": "init_image",
    "control_image": "controlnet_model",
    "controlnet_type": "controlnet_model",
    "controlnet_conditioning_scale": "controlnet_model",
    "auto_hint": "controlnet_model",
    "guess_mode": "controlnet_model",
    "lora_strength": "lora_model",
    "safety_checker_type": "safety_checker",
    "sampling_method": "scheduler",
    "model_id": "prompt",
}
"""Fields that mean something only together with another: whoever honours that one honours them."""


def refusal(family: Family, request: DrawingOrFilm) -> tuple[str, str] | None:
    """The field and the sentence for the first thing the request asks for and the family can't do; None when it can be drawn."""
    for parameter in PARAMETERS:
        if parameter.honour(family) == "refused" and parameter.asked(request):
            able = ", ".join(parameter.families)
            name = FAMILY_NAMES[family]
            sentence = f"{parameter.what} is not possible with the model {request.checkpoint!r}, a {name}; families that can: {able}."
            return parameter.field, sentence
    return None


def suited(family: Family, request: Drawing) -> Drawing:
    """The request with what the family replaces by its own taken out, so that answers tell what was done."""
    return request if family in UNET_FAMILIES else request.model_copy(update=dict.fromkeys(_SAMPLER_FIELDS))
