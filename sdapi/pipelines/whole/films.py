"""Models for films in the words of diffusers' pipelines: what is loaded, what a request is called there, and how frames come out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import diffusers  # its names are looked up when they are used: what films need takes seconds to import
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import Checkpoint, FilmFamily, ModelBroken, Refused, part_weights
from sdapi.domain.generation import Text2Video
from sdapi.pipelines.loading.loader import load_checkpoint, quiet_loading
from sdapi.pipelines.loading.reading_errors import READING_ERRORS
from sdapi.pipelines.loading.whole_loader import WholeComponents, assembled, load_whole
from sdapi.pipelines.samplers.sampler import Sampler

_log = logging.getLogger(__name__)

_LOADING_ERRORS = (*READING_ERRORS, Refused)
_ADAPTED_SAMPLER = {"beta_schedule": "linear", "clip_sample": False, "steps_offset": 1, "timestep_spacing": "linspace"}
"""What motion adapters were trained with, whichever the checkpoint's own sampler is."""
_FRAMES_AT_ONCE = 4
"""Decoded between two steps of other pictures: decoding a frame costs about as much as a guided step of one."""


def load_film_model(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype, is_dtype_chosen: bool) -> WholeComponents:
    """Read a folder that the catalog has looked through. Blocks for seconds. Raises what `load_whole` raises.

    The UNet of AnimateDiff holds its motion modules, made once from the adapter where the folder keeps them apart; else every film
    would copy the whole UNet. Wan's autoencoder stays in float32, whose rounding would be seen.
    """
    parts = load_whole(checkpoint, device=device, dtype=dtype, is_dtype_chosen=is_dtype_chosen)
    components = dict(parts.components)
    if "motion_adapter" in components:
        if isinstance(components["unet"], diffusers.UNet2DConditionModel):
            components["unet"] = assembled(parts, parts.pipeline_class).unet.eval().requires_grad_(requires_grad=False).to(device)
        components["motion_adapter"] = None
    if checkpoint.family == "wan":
        components["vae"] = components["vae"].float()
    networks = [part for part in components.values() if isinstance(part, torch.nn.Module)]
    return replace(
        parts,
        components=components,
        bytes=sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers())),
    )


def load_adapted(checkpoint: Checkpoint, adapter: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> WholeComponents:
    """A Stable Diffusion 1.x checkpoint whose pictures a motion adapter moves. Blocks for seconds.

    Raises ModelBroken where one of them is damaged or they don't fit together, torch.OutOfMemoryError.
    """
    parts = load_checkpoint(checkpoint, device=device, dtype=dtype)
    try:
        with quiet_loading():
            variant = part_weights(adapter.path, prefer_fp16=dtype == torch.float16).variant
            motion = diffusers.MotionAdapter.from_pretrained(
                adapter.path, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
            )
            unet = diffusers.UNetMotionModel.from_unet2d(parts.unet, motion).eval().requires_grad_(requires_grad=False).to(device, dtype)
    except _LOADING_ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        _log.exception("a motion adapter can't be loaded", extra={"model": adapter.id})
        sentence = f"The motion adapter {adapter.id!r} can't be loaded with the model {checkpoint.id!r}: they don't fit, or it is damaged."
        raise ModelBroken(adapter.id, sentence) from error
    networks = (parts.text_encoder, unet, parts.vae)
    return WholeComponents(
        pipeline_class=diffusers.AnimateDiffPipeline,
        components={
            "tokenizer": parts.tokenizer,
            "text_encoder": parts.text_encoder,
            "unet": unet,
            "vae": parts.vae,
            "scheduler": diffusers.DDIMScheduler.from_config({**parts.scheduler_config, **_ADAPTED_SAMPLER}),
            "motion_adapter": None,
            "feature_extractor": None,
            "image_encoder": None,
        },
        options={},
        device=device,
        bytes=sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers())),
        denoiser_parameters=sum(parameter.numel() for parameter in unet.parameters()),
    )


def drawn_film_size(pipe: Any, request: Text2Video) -> tuple[int, int]:
    """Width and height the pipeline can draw, in pixels: those asked for or a little more."""
    if hasattr(pipe, "vae_scale_factor_spatial"):
        patch = pipe.transformer.config.patch_size
        cells = (pipe.vae_scale_factor_spatial * patch[2], pipe.vae_scale_factor_spatial * patch[1])
    else:
        cells = (pipe.vae_scale_factor,) * 2
    width, height = (-(-side // int(cell)) * int(cell) for side, cell in zip((request.width, request.height), cells, strict=True))
    return width, height


def sampler_asked_for(pipe: Any, family: FilmFamily, request: Text2Video) -> Sampler | None:
    """The request's sampler instead of the model's own; None where it names none, and for Wan, which keeps its own."""
    named = (request.scheduler, request.use_karras_sigmas, request.algorithm_type)
    if family == "wan" or all(one is None for one in named):
        return None
    return Sampler(
        # What Stable Diffusion's own configurations say, and those of DDIM have no need to.
        {"skip_prk_steps": True, **pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__},
        request.scheduler,
        steps=request.steps,
        strength=None,
        use_karras_sigmas=request.use_karras_sigmas,
        algorithm_type=request.algorithm_type,
    )


def words_and_guidance(request: Text2Video) -> Mapping[str, Any]:
    """At a scale of 1 nothing guides, and a negative prompt has no effect."""
    return {"prompt": request.prompt, "negative_prompt": request.negative_prompt or None, "guidance_scale": request.guidance_scale}


def decoding_turns(family: FilmFamily, frames: int) -> int:
    """Steps at whose end others may go on while the frames are decoded; 0 where the pipeline decodes by itself, in one piece."""
    return 0 if family == "wan" else math.ceil(frames / _FRAMES_AT_ONCE)


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor, on_turn: Callable[[], None]) -> list[Image.Image]:
    """RGB pictures of latents (1, channels, frames, h, w), a few at a time as `StableDiffusion`'s autoencoder knows only pictures.

    Raises ArithmeticError when the latents are not numbers any more.
    """
    if not torch.isfinite(latents).all():
        raise ArithmeticError("the latents overflowed")
    frames: list[Image.Image] = []
    for first in range(0, latents.shape[2], _FRAMES_AT_ONCE):
        some = latents[:, :, first : first + _FRAMES_AT_ONCE]
        for frame in some.unbind(2):
            # (1, 3, 1, height_px, width_px), -1 to 1
            pixels = pipe.decode_latents(frame.unsqueeze(2))
            frames += pictures((pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4)[0])
        on_turn()
    return frames


def pictures(pixels: Tensor) -> list[Image.Image]:
    """RGB pictures of (frames, 3, height_px, width_px), 0 to 1."""
    return [Image.fromarray((one.permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8)) for one in pixels]
