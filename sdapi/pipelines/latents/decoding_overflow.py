"""Decoding in half precision, which some VAEs' activations overflow for some pictures: those are decoded once more in float32."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor

from sdapi.pipelines.latents.latent_space import decoded

_log = logging.getLogger(__name__)


def decoded_in_any_case(vae: Any, latents: Tensor) -> Tensor:
    """Pixels (n, 3, height_px, width_px), about -1..1, in float32, from latents (n, 4, h, w).

    Only the pictures that overflowed are made again, by a copy of the network that is gone afterwards. Raises ArithmeticError when one is
    not made of numbers in float32 either. Changes nothing of the VAE, which other threads may be using.
    """
    pixels = decoded(vae, latents).float()
    lost = _overflowed(pixels)
    if not lost.any():
        return pixels
    if vae.dtype != torch.float32:
        _log.info(
            "a picture overflowed its number format and is decoded again", extra={"dtype": str(vae.dtype), "pictures": int(lost.sum())}
        )
        pixels[lost] = decoded(copy.deepcopy(vae).to(torch.float32), latents[lost])
        lost = _overflowed(pixels)
    if lost.any():
        raise ArithmeticError("the picture overflowed")
    return pixels


def _overflowed(pixels: Tensor) -> Tensor:
    """(n,): which are not all numbers."""
    return ~torch.isfinite(pixels).flatten(1).all(dim=1)
