"""Latents of a UNet's rows become pictures: finished rows alone or several at once, and small looks at those in the making."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.pipelines.guidance.panorama import decoded_in_the_round
from sdapi.pipelines.latents.decoding_overflow import decoded_in_any_case
from sdapi.pipelines.scheduling.row import Row

_PREVIEW_LATENTS = 32
"""Longest side of what a preview decodes (256 px): enough to see what it becomes, and little work beside a step."""


class UnetDecoder:
    """Around one model's VAE. It keeps nothing, so any thread may call it."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    @torch.inference_mode()
    def decode(self, row: Row) -> Image.Image:
        """The finished row's picture, RGB. Raises ArithmeticError when the latents are not numbers any more."""
        if row.window is None:
            return self.decode_together([row])[0]
        _check(row.latents)
        return decoded_in_the_round(row.latents, lambda latents: self._decoded(latents, row.vae)[0])

    def group(self, row: Row) -> Hashable | None:
        """Rows with equal ones may be decoded together: they have one size and one VAE. None for panoramas, decoded beyond their sides."""
        return None if row.window is not None else (*row.latents.shape[-2:], id(row.vae))

    @torch.inference_mode()
    def decode_together(self, rows: Sequence[Row]) -> list[Image.Image]:
        """The pictures of finished rows of one group. Raises ArithmeticError when some latents are not numbers any more."""
        together = torch.cat([row.latents for row in rows])
        _check(together)
        drawn = self._decoded(together, rows[0].vae)
        return [image if row.paste is None else row.paste.pasted(image) for row, image in zip(rows, drawn, strict=True)]

    @torch.inference_mode()
    def preview(self, row: Row, predicted: Tensor) -> Image.Image:
        """What the row is about to become, by the noise just predicted for it, RGB, at most 256 px long. Changes nothing of the row."""
        clean = row.sampler.denoised(predicted, row.latents)
        _check(clean)
        height, width = clean.shape[-2:]
        shrink = max(height, width) / _PREVIEW_LATENTS
        if shrink > 1:
            smaller = (max(1, round(height / shrink)), max(1, round(width / shrink)))
            clean = torch.nn.functional.adaptive_avg_pool2d(clean, smaller)
        return self._decoded(clean, row.vae)[0]

    def _decoded(self, latents: Tensor, chosen: Any) -> list[Image.Image]:
        """A picture of each. Raises ArithmeticError where one is not made of numbers."""
        vae = self._vae if chosen is None else chosen
        pixels = (decoded_in_any_case(vae, latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray((one * 255).round().astype(np.uint8)) for one in pixels]


def _check(latents: Tensor) -> None:
    if not torch.isfinite(latents).all():
        raise ArithmeticError("the latents overflowed")
