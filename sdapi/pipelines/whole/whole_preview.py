"""What a whole pipeline's picture is becoming: the clean latents two steps point to, decoded small.

Flow matching goes in a straight line between two steps, and the line leads on to the picture the model has in mind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.families import WholeFamily

_LONGEST_PX = 256


@dataclass(frozen=True)
class Noisy:
    """A row's latents at the end of a step."""

    latents: Tensor
    """In the pipeline's own form."""
    sigma: float
    """Share of noise in them."""


def noisy_latents(pipe: Any, latents: Tensor | None) -> Noisy | None:
    """The latents with their share of noise; None where the sampler isn't one of flow matching, which has other lines."""
    scheduler = pipe.scheduler
    if latents is None or type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler" or scheduler.step_index is None:
        return None
    return Noisy(latents, float(scheduler.sigmas[scheduler.step_index]))


@torch.no_grad()
def preview(family: WholeFamily, pipe: Any, before: Noisy, after: Noisy, size: tuple[int, int]) -> Image.Image | None:
    """RGB, at most 256 px long; None where the family's latents are of a kind that is not known here. `size` is the drawn one's, in pixels.

    Raises ArithmeticError when the latents are not numbers any more. Changes nothing of the drawing.
    """
    if family == "other" or before.sigma <= after.sigma:
        return None
    # Computed in their precision or better: differences of two near numbers lose digits.
    slope = (before.latents.float() - after.latents.float()) / (before.sigma - after.sigma)
    clean = after.latents.float() - after.sigma * slope
    if not torch.isfinite(clean).all():
        raise ArithmeticError("the latents overflowed")
    if clean.ndim == 3:
        width, height = size
        clean = pipe._unpack_latents(clean, height, width, pipe.vae_scale_factor)  # noqa: SLF001 - only the pipeline knows how they are packed
    if clean.ndim == 5:
        # Of a network for films, this is the one frame.
        clean = clean[:, :, 0]
    small = _shrunk(clean, _LONGEST_PX // int(pipe.vae_scale_factor)).to(pipe.vae.dtype)
    pixels = (_decoded(pipe.vae, small) / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _shrunk(latents: Tensor, longest: int) -> Tensor:
    height, width = latents.shape[-2:]
    shrink = max(height, width) / longest
    if shrink <= 1:
        return latents
    smaller = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    return torch.nn.functional.adaptive_avg_pool2d(latents, smaller)


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    """-1 to 1, (1, 3, height_px, width_px)."""
    decoded: Tensor
    if "latents_mean" in vae.config and vae.config.latents_mean is not None:
        mean, spread = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        decoded = vae.decode((latents * spread + mean).unsqueeze(2), return_dict=False)[0][:, :, 0]
    else:
        decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
    return decoded
