"""The two drawings of the high-resolution fix (`sdapi.domain.highres`): a small one, whose row is then enlarged and drawn over.

The latents are enlarged, not the pixels, as by A1111's upscaler "Latent (antialiased)": decoding and encoding them between the two
drawings would cost about three steps and changed nothing in what a detector saw in the embedded model's pictures.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.domain.highres import first_size
from sdapi.pipelines.scheduling.row import Row

_USUAL_SAMPLE_SIZE = 64
_LATENT_SCALE = 8


def first_drawing(request: Txt2Img | Img2Img | Inpaint | ControlNet, unet: Any) -> Txt2Img | Img2Img | Inpaint | ControlNet:
    """The request for the first drawing: the same, at the size the UNet was made for."""
    trained = unet.config.get("sample_size") or _USUAL_SAMPLE_SIZE
    height, width = (trained, trained) if isinstance(trained, int) else trained
    width_px, height_px = first_size(request.width, request.height, native_px=round(math.sqrt(height * width) * _LATENT_SCALE))
    return request.model_copy(update={"width": width_px, "height": height_px, "highres_fix": False})


def enter_next_phase(row: Row) -> None:
    """Let a row whose sampler has finished go on as its `next_phase` says; the noise comes from the row's own generator."""
    following = row.next_phase
    if following is None:
        raise ValueError("the row has no further phase")
    size = (following.key.latent_height, following.key.latent_width)
    clean = _enlarged(row.latents, size)
    noise = torch.randn(clean.shape, generator=row.generator, dtype=clean.dtype).to(clean.device)
    if row.shown is not None:
        # Of a picture from words this is one plain grey, masked as a whole: it looks the same at any size.
        row.shown = _enlarged(row.shown, size)
    row.steps_before += len(row.sampler.timesteps)
    row.key, row.sampler, row.controls = following.key, following.sampler, following.controls
    row.latents = row.sampler.add_noise(clean, noise)
    row.next_phase = None


def _enlarged(latents: Tensor, size: tuple[int, int]) -> Tensor:
    # Not every device can do it in half precision.
    return functional.interpolate(latents.float(), size=size, mode="bilinear", antialias=True).to(latents.dtype)
