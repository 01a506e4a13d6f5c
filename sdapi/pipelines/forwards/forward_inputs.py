"""What a UNet is given for one forward over some samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdapi.pipelines.guidance.halves import Words
from sdapi.pipelines.samplers.row_sums import brought

ForwardKey = tuple[tuple[int, ...] | None, ...]
"""Forwards with equal ones differ in the number of samples only."""

_PICTURE = 8
"""Pixels per latent, along each side."""


@dataclass(frozen=True)
class ForwardInputs:
    """One entry per sample in each, on the network's device."""

    latents: Tensor
    """(samples, channels, h, w), in the network's dtype."""
    timesteps: Tensor
    """(samples,) of float32."""
    context: Tensor
    """(samples, tokens, width), or ready keys and values (samples, numbers): see `text_keys.py`."""
    pooled: Tensor | None = None
    """(samples, width): the prompt in one vector, for Stable Diffusion XL."""
    sizes: Tensor | None = None
    """(samples, 6): what size XL is to think the picture has, and that it was never cropped."""
    strengths: Tensor | None = None
    """(samples, LoRAs) of float32: how strongly each sample takes each of those that are laid over (see `steady_overlay.py`)."""
    perturbed: Tensor | None = None
    """(samples,) of bool: those whose middle can't look around itself (see `perturbed_attention.py`)."""
    residuals: tuple[Tensor, ...] = ()
    """(samples, channels, h, w) each: what control nets add to the network's levels, outermost first and the middle last."""

    @property
    def samples(self) -> int:
        """How many."""
        return len(self.latents)

    @property
    def told(self) -> tuple[Tensor | None, ...]:
        """What the network itself is told, in the order of the fields."""
        return self.latents, self.timesteps, self.context, self.pooled, self.sizes

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them, in the order of the fields."""
        return (*self.told, self.strengths, self.perturbed, *self.residuals)

    @staticmethod
    def of(tensors: Sequence[Tensor | None]) -> ForwardInputs:
        """From what `tensors` gives."""
        latents, timesteps, context, pooled, sizes, strengths, perturbed, *residuals = tensors
        assert latents is not None and timesteps is not None and context is not None  # noqa: S101, PT018 - every forward has these
        found = tuple(residual for residual in residuals if residual is not None)
        return ForwardInputs(latents, timesteps, context, pooled, sizes, strengths, perturbed, found)

    @property
    def key(self) -> ForwardKey:
        """Of everything but the number of samples."""
        return tuple(None if tensor is None else tuple(tensor.shape[1:]) for tensor in self.tensors)

    @property
    def conditions(self) -> dict[str, Tensor] | None:
        """By their names in diffusers."""
        return None if self.pooled is None or self.sizes is None else {"text_embeds": self.pooled, "time_ids": self.sizes}

    def each(self, change: Callable[[Tensor], Tensor]) -> ForwardInputs:
        """The same of all tensors, changed."""
        return ForwardInputs.of([None if tensor is None else change(tensor) for tensor in self.tensors])

    def padded(self, samples: int) -> ForwardInputs:
        """With the last sample repeated, so that there are so many."""
        missing = samples - self.samples
        return self if missing <= 0 else self.each(lambda tensor: torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]))


def forward(unet: Any, inputs: ForwardInputs) -> Tensor:
    """The noise (samples, 4, h, w) that the network sees in the latents, led by the residuals; see `overlay.py` for the rest."""
    led: dict[str, Any] = {}
    if inputs.residuals:
        led = {"down_block_additional_residuals": inputs.residuals[:-1], "mid_block_additional_residual": inputs.residuals[-1]}
    conditions = inputs.conditions
    seen: Tensor = unet(inputs.latents, inputs.timesteps, inputs.context, added_cond_kwargs=conditions, **led, return_dict=False)[0]
    return seen


def conditions_of(words: Sequence[Words], latents: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """`pooled` and `sizes` for words with a pooled vector, as those of Stable Diffusion XL have it; None for others."""
    pooled = [each.pooled for each in words if each.pooled is not None]
    if not pooled:
        return None, None
    height, width = (side * _PICTURE for side in latents.shape[-2:])
    sizes = brought(torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype), latents.device)
    return torch.stack(pooled), sizes.expand(len(pooled), -1)
