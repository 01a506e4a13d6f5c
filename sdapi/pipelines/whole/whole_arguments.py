"""A request in the words of a diffusers pipeline: what is called guidance, negative, strength and size there.

Pipelines differ in what they take, so it is their signature that is asked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.families import WholeFamily
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img

_CELLS_PER_PATCH = 2
_LEAST_MULTIPLE_PX = 16
_NO_WORDS = " "
"""Guidance against nothing said; an empty text has no tokens in Qwen-Image."""


@dataclass(frozen=True)
class Guidance:
    """How a pipeline is to be guided."""

    arguments: Mapping[str, Any]
    is_twofold: bool
    """Whether every step predicts with and without the prompt."""


def drawn_size(pipe: Any, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> tuple[int, int]:
    """Width and height the pipeline can draw, in pixels: those asked for or a little more."""
    multiple_px = math.lcm(_LEAST_MULTIPLE_PX, _cell_px(pipe))
    width, height = (-(-side // multiple_px) * multiple_px for side in (request.width, request.height))
    return width, height


def size_arguments(pipe: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The drawn size. Pipelines that edit pictures would bring any size to the area they know best, if they weren't told."""
    area = {"max_area": size[0] * size[1]} if "max_area" in _parameters(pipe) else {}
    return {"width": size[0], "height": size[1], **area}


def check_size(family: WholeFamily, pipe: Any, request: Txt2Img | Img2Img | Inpaint | ControlNet, size: tuple[int, int]) -> None:
    """Stable Diffusion 3 knows places up to an edge only. Raises InvalidRequest beyond."""
    config = getattr(getattr(pipe, "transformer", None), "config", None)
    patches, patch = getattr(config, "pos_embed_max_size", None), getattr(config, "patch_size", None)
    if family != "sd3" or not isinstance(patches, int) or not isinstance(patch, int):
        return
    most_px = patches * patch * int(pipe.vae_scale_factor)
    for field, side in zip(("width", "height"), size, strict=True):
        if side > most_px:
            sentence = f"The model {request.checkpoint!r} draws at most {most_px} pixels in this direction."
            raise InvalidRequest.of(field, sentence)


def _cell_px(pipe: Any) -> int:
    cell_px = int(getattr(pipe, "vae_scale_factor", 8))
    # Deep autoencoders leave nothing to be cut into patches.
    return cell_px if cell_px > _LEAST_MULTIPLE_PX else cell_px * _CELLS_PER_PATCH


def step_count(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> int:
    """About how many steps it takes; the pipeline tells exactly when it has begun."""
    return max(int(request.steps * request.strength), 1) if isinstance(request, Img2Img | Inpaint) else request.steps


def guidance_for(family: WholeFamily, pipe: Any, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Guidance:
    """The request's guidance and negative prompt.

    Some models were distilled from a guided one and take the scale as an input (Flux). With a negative prompt these are guided by
    the difference to it instead, at the same scale and with the input at rest: else both would add up. At a scale of 1 nothing guides,
    and a negative prompt has no effect.
    """
    scale, negative = request.guidance_scale, request.negative_prompt
    known = _parameters(pipe)
    is_distilled = bool(getattr(getattr(getattr(pipe, "transformer", None), "config", None), "guidance_embeds", False))
    words: dict[str, Any] = {"negative_prompt": negative} if negative and scale > 1 and "negative_prompt" in known else {}
    if "true_cfg_scale" not in known:
        return Guidance({"guidance_scale": scale, **words} if "guidance_scale" in known else words, is_twofold=scale > 1)
    if family == "qwen_image" and not is_distilled and scale > 1:
        words = words or {"negative_prompt": _NO_WORDS}
    arguments = {"true_cfg_scale": scale if words else 1.0, **words}
    if is_distilled:
        arguments["guidance_scale"] = 1.0 if words else scale
    return Guidance(arguments, is_twofold=bool(words))


def picture_arguments(
    request: Txt2Img | Img2Img | Inpaint | ControlNet,
    init_image: Image.Image | None,
    mask_image: Image.Image | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    """The pictures, brought to `size`, and how much of them is noised away: at least one step of it."""
    if not isinstance(request, Img2Img | Inpaint) or init_image is None:
        return {}
    arguments: dict[str, Any] = {"image": fitted(init_image, size), "strength": max(request.strength, 1 / request.steps)}
    if mask_image is not None:
        arguments["mask_image"] = fitted(mask_image, size)
    return arguments


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at that size, stretched as everywhere here: pictures come and go through the same bend, so nothing moves."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def step_arguments(pipe: Any, on_step: Any) -> dict[str, Any]:
    """How the pipeline is told what to call after each step, as `on_step(step index, latents)`."""
    if "callback_on_step_end" in _parameters(pipe):

        def called(_: Any, index: int, __: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
            on_step(index, tensors.get("latents"))
            return {}

        return {"callback_on_step_end": called}
    return {"callback": lambda index, _, latents: on_step(index, latents), "callback_steps": 1}


def _parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipe).__call__).parameters
