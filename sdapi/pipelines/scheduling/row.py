"""One picture in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdapi.domain.windows import window_starts
from sdapi.pipelines.added.loras import Applied
from sdapi.pipelines.control.controlnets import Control
from sdapi.pipelines.guidance.halves import Half, Weighted, Words, guidance_of, halves_of
from sdapi.pipelines.guidance.inpainting import LatentBlend, PixelPaste
from sdapi.pipelines.samplers.planned_samplers import AnySampler


@dataclass(frozen=True)
class BatchKey:
    """Rows with equal keys may share a forward; everything else may differ from row to row."""

    model: str
    latent_height: int
    latent_width: int
    context_tokens: int
    merges_tokens: bool = False
    """Whether similar places share a token (`token_merging.py`): all rows of a forward do, or none."""
    is_panorama: bool = False
    """Then the latent size is that of the windows, whatever size the pictures have."""


@dataclass(frozen=True)
class Window:
    """What of a panorama is predicted at once, in latents (`panorama.py`)."""

    latent_height: int
    latent_width: int
    over_a_place: int
    """How many windows beside one another draw every place."""
    spread: float
    """How far from its middle a window's word counts: the standard deviation of a Gaussian, in half windows; infinite for all alike."""

    def corners(self, latents: Tensor) -> list[tuple[int, int]]:
        """Top and left of each window over these latents, row by row. Those at the right go on at the left."""
        height, width = latents.shape[-2:]
        tops = window_starts(height, self.latent_height, wraps=False, over_a_place=self.over_a_place)
        lefts = window_starts(width, self.latent_width, wraps=True, over_a_place=self.over_a_place)
        return [(top, left) for top in tops for left in lefts]


@dataclass(frozen=True)
class NextPhase:
    """How a row goes on when its sampler has finished, instead of being decoded (`highres.py`)."""

    key: BatchKey
    sampler: AnySampler
    controls: tuple[Control, ...] = ()


@dataclass
class Row:
    """A picture's whole state: nothing in it is shared, so neighbours in a batch can't touch it."""

    key: BatchKey
    latents: Tensor
    """(1, 4, height_px / 8, width_px / 8), in the model's dtype, on its device."""
    sampler: AnySampler
    generator: torch.Generator
    """The row's own, on the CPU, seeded by the picture's seed: noise never depends on neighbours or device."""
    prompts: tuple[Weighted, ...]
    """At least one; several where AND joins them. All contexts of a row have the length its key says."""
    negative: Words | None
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
    next_phase: NextPhase | None = None
    steps_before: int = 0
    """Taken in the phases before this one."""
    perturbation_scale: float | None = None
    """How far perturbed-attention guidance leads it; None: not at all, and then it takes no perturbed half."""
    window: Window | None = None
    """In which a panorama is drawn; None: the row is predicted as a whole."""

    @property
    def halves(self) -> list[Half]:
        """What the UNet is told in each of the row's samples, in their order."""
        return halves_of(self.prompts, self.negative, has_perturbed=self.perturbation_scale is not None)

    @property
    def guidance(self) -> list[float]:
        """How often the prediction for each of the row's halves counts in the noise prediction that the row is stepped by."""
        return guidance_of(
            self.prompts,
            has_negative=self.negative is not None,
            guidance_scale=self.guidance_scale,
            perturbation_scale=self.perturbation_scale,
        )

    def close(self) -> None:
        """Nothing to let go of: a row is memory only."""

    @property
    def forwards(self) -> int:
        """UNet samples the row takes per step."""
        return len(self.halves) * (1 if self.window is None else len(self.window.corners(self.latents)))

    @property
    def steps_done(self) -> int:
        """Steps taken, of all its phases."""
        return self.steps_before + self.sampler.position

    @property
    def steps(self) -> int:
        """Steps of all its phases, known from the start."""
        following = 0 if self.next_phase is None else len(self.next_phase.sampler.timesteps)
        return self.steps_before + len(self.sampler.timesteps) + following
