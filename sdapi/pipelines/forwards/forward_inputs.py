"""What a UNet is given for one forward over some samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdapi.pipelines.guidance.halves import Words

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

    @property
    def samples(self) -> int:
        """How many."""
        return len(self.latents)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them, in the order of the fields."""
        return self.latents, self.timesteps, self.context, self.pooled, self.sizes

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
        latents, timesteps, context, pooled, sizes = (None if tensor is None else change(tensor) for tensor in self.tensors)
        assert latents is not None and timesteps is not None and context is not None  # noqa: S101, PT018 - only XL's may be missing
        return ForwardInputs(latents, timesteps, context, pooled, sizes)

    def padded(self, samples: int) -> ForwardInputs:
        """With the last sample repeated, so that there are so many."""
        missing = samples - self.samples
        return self if missing <= 0 else self.each(lambda tensor: torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]))


def forward(unet: Any, inputs: ForwardInputs, led: Mapping[str, Any] | None = None) -> Tensor:
    """The noise (samples, 4, h, w) that the network sees in the latents. `led` is what else it is given, by its names in diffusers."""
    conditions = inputs.conditions
    seen: Tensor = unet(inputs.latents, inputs.timesteps, inputs.context, added_cond_kwargs=conditions, **(led or {}), return_dict=False)[0]
    return seen


def conditions_of(words: Sequence[Words], latents: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """`pooled` and `sizes` for words with a pooled vector, as those of Stable Diffusion XL have it; None for others."""
    pooled = [each.pooled for each in words if each.pooled is not None]
    if not pooled:
        return None, None
    height, width = (side * _PICTURE for side in latents.shape[-2:])
    sizes = latents.new_tensor([height, width, 0, 0, height, width])
    return torch.stack(pooled), sizes.expand(len(pooled), -1)
