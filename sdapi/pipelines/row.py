"""One picture in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .controlnets import Control
from .inpainting import LatentBlend, PixelPaste
from .loras import Applied
from .samplers import Sampler


@dataclass(frozen=True)
class BatchKey:
    """Rows with equal keys may share a forward; everything else may differ from row to row."""

    model: str
    latent_height: int
    latent_width: int
    context_tokens: int


@dataclass
class Row:
    """A picture's whole state: nothing in it is shared, so neighbours in a batch can't touch it."""

    key: BatchKey
    latents: Tensor
    """(1, 4, height_px / 8, width_px / 8), in the model's dtype, on its device."""
    sampler: Sampler
    generator: torch.Generator
    """The row's own, on the CPU, seeded by the picture's seed: noise never depends on neighbours or device."""
    context: Tensor
    """(tokens, hidden size)."""
    negative_context: Tensor | None
    """None when guidance is 1: the row then takes no unconditional half."""
    guidance_scale: float
    blend: LatentBlend | None = None
    """What inpainting keeps while the row is drawn; None draws all of it."""
    paste: PixelPaste | None = None
    """What inpainting keeps of the pixels."""
    shown: Tensor | None = None
    """(1, 5, height_px / 8, width_px / 8): mask and masked picture, which inpainting models take beside the latents; other models none."""
    controls: tuple[Control, ...] = ()
    """The control nets that lead it."""
    loras: tuple[Applied, ...] = ()
    """What is added to the UNet for this row alone."""
    vae: Any = None
    """The network that decodes it; None: the model's own."""

    @property
    def forwards(self) -> int:
        """UNet samples the row takes per step."""
        return 1 if self.negative_context is None else 2
