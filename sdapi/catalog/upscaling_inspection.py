"""Diffusers folders whose pipeline makes pictures larger: which pipelines, and whether a folder is complete and harmless."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .configurations import read_json
from .weights import Refused
from .whole_inspection import weights_of_parts

_ALL_HAVE: Mapping[str, str] = {
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
}
_SCHEDULERS: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionUpscalePipeline": ("scheduler", "low_res_scheduler"),
    "StableDiffusionLatentUpscalePipeline": ("scheduler",),
}
UPSCALING_PIPELINES = tuple(_SCHEDULERS)
"""Class names in model_index.json."""


def inspect_upscaling_pipeline(path: Path) -> tuple[Path, ...]:
    """The weights of a folder that has a model_index.json. Raises Refused unless it is a whole upscaling pipeline, and OSError."""
    index = read_json(path / "model_index.json")
    name = str(index.get("_class_name"))
    if name not in _SCHEDULERS:
        raise Refused(f"Its pipeline is {name[:60]!a}; {' and '.join(UPSCALING_PIPELINES)} make pictures larger.")
    for part in (*_ALL_HAVE, *_SCHEDULERS[name]):
        if not _is_class(index.get(part), _ALL_HAVE.get(part)):
            wanted = f" of class {_ALL_HAVE[part]}" if part in _ALL_HAVE else ""
            raise Refused(f"model_index.json names no {part}{wanted}, which every {name} has.")
    weights = weights_of_parts(path, index)
    for part in ("vae", "text_encoder", "unet"):
        if not any(file.parent.name == part for file in weights):
            raise Refused(f"{part}/config.json is missing.")
    vae, unet = (read_json(path / part / "config.json") for part in ("vae", "unet"))
    _check_channels(name, vae, unet)
    return weights


def _check_channels(name: str, vae: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """What the UNet is shown: latents, and beside them the small picture, in colours or in latents."""
    channels = vae.get("latent_channels", 4)
    shown = 3 if name == "StableDiffusionUpscalePipeline" else channels
    if unet.get("in_channels") != channels + shown:
        raise Refused(f"Its UNet takes {str(unet.get('in_channels'))[:20]!a} channels, but {name} shows it {channels + shown}.")


def _is_class(source: object, wanted: str | None) -> bool:
    if not isinstance(source, list) or len(source) != 2 or source[1] is None:
        return False
    return wanted is None or source[1] in (wanted, f"{wanted}Fast")
