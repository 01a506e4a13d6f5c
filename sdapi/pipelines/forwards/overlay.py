"""What is laid over a network while it runs: LoRAs, attention that is perturbed, tokens that are merged.

Over those samples only that it is meant for; or, as a recording needs it, over all samples, as far as each one's inputs say. Then who
takes part, and how strongly, are numbers like any others, and one recording serves all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sdapi.pipelines.added.loras import Applied, Lora, applied, applied_to_all
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.guidance.perturbed_attention import perturbed
from sdapi.pipelines.guidance.token_merging import merging
from sdapi.pipelines.samplers.row_sums import brought
from sdapi.pipelines.scheduling.row import BatchKey

_MOST_IN_VAIN = 3
"""How many times the work may be done that somebody asked for: each LoRA is computed for samples that don't take it, too."""


@dataclass(frozen=True)
class SteadyOverlay:
    """Over all samples of a forward; what each takes of it stands in the inputs."""

    unet: Any
    batch: BatchKey
    loras: tuple[Lora, ...]
    is_mixed: bool
    """Whether some samples don't take some of the LoRAs."""

    @property
    def key(self) -> Hashable:
        """What runs over inputs of one shape is the same for equal ones, as long as the LoRAs are in memory."""
        return tuple(id(lora) for lora in self.loras), self.is_mixed, self.batch.merges_tokens

    def forward(self, inputs: ForwardInputs) -> Tensor:
        """See `forward_inputs.forward`. Neither waits for the device nor brings anything there."""
        with ExitStack() as laid:
            if inputs.strengths is not None:
                laid.enter_context(applied_to_all(self.unet, "unet", self.loras, inputs.strengths, is_mixed=self.is_mixed))
            laid.enter_context(perturbed(self.unet, inputs.perturbed))
            laid.enter_context(merging(self.unet, self.batch))
            return forward(self.unet, inputs)


@dataclass(frozen=True)
class Overlay:
    """Of one forward; one entry per sample in each."""

    unet: Any
    batch: BatchKey
    loras: Sequence[tuple[Applied, ...]]
    perturbed: Sequence[bool]

    def forward(self, inputs: ForwardInputs) -> Tensor:
        """See `forward_inputs.forward`. Everything is laid over the samples that it is meant for, and over no others."""
        which = self._which_perturbed(inputs.latents.device)
        with applied(self.unet, "unet", self.loras), perturbed(self.unet, which), merging(self.unet, self.batch):
            return forward(self.unet, inputs)

    def steady(self, inputs: ForwardInputs) -> tuple[SteadyOverlay, ForwardInputs] | None:
        """The same in the form that recordings need; None where most of what is computed then would be for nobody."""
        device = inputs.latents.device
        table = [_strengths(uses) for uses in self.loras]
        loras = tuple(sorted({lora for strengths in table for lora in strengths}, key=lambda lora: lora.version))
        taken = sum(len(strengths) for strengths in table)
        if len(loras) * len(table) > _MOST_IN_VAIN * taken:
            return None
        strengths = None
        if loras:
            strengths = brought(torch.tensor([[each.get(lora, 0.0) for lora in loras] for each in table]), device)
        told = replace(inputs, strengths=strengths, perturbed=self._which_perturbed(device))
        return SteadyOverlay(self.unet, self.batch, loras, is_mixed=taken < len(loras) * len(table)), told

    def _which_perturbed(self, device: torch.device) -> Tensor | None:
        return brought(torch.tensor(list(self.perturbed)), device) if any(self.perturbed) else None


def _strengths(uses: Sequence[Applied]) -> dict[Lora, float]:
    """Of what changes the network at all."""
    found: dict[Lora, float] = {}
    for use in uses:
        if use.strength and use.lora.unet:
            found[use.lora] = found.get(use.lora, 0.0) + use.strength
    return found
