"""Between pixels and the latents a UNet works in: a VAE's own numbers, moved and scaled as its configuration says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdapi.pipelines.loading.placement import dtype_of


def encoded(vae: Any, pixels: Tensor, generator: torch.Generator, *, dtype: torch.dtype) -> Tensor:
    """Latents (1, 4, height_px / 8, width_px / 8) in `dtype`, from pixels (1, 3, height_px, width_px) in -1..1.

    Drawn from the encoder's posterior with the generator. Runs in the VAE's own dtype, which may be wider than the UNet's.
    """
    found: Tensor = vae.encode(pixels.to(dtype_of(vae))).latent_dist.sample(generator=generator)
    mean, scale = _mean_and_scale(vae, found)
    scaled: Tensor = (found - mean) * scale
    return scaled.to(dtype)


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pixels (n, 3, height_px, width_px), about -1..1, in the VAE's own dtype."""
    latents = latents.to(dtype_of(vae))
    mean, scale = _mean_and_scale(vae, latents)
    pixels: Tensor = vae.decode(latents / scale + mean, return_dict=False)[0]
    return pixels


def _mean_and_scale(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """What is subtracted of a VAE's latents and what they are then multiplied by: numbers, or tensors (1, 4, 1, 1)."""
    config = vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        return like.new_tensor(mean).view(1, -1, 1, 1), config.scaling_factor / like.new_tensor(deviation).view(1, -1, 1, 1)
    return config.get("shift_factor") or 0.0, config.scaling_factor
