"""What a UNet is told in each sample that a row takes of a step - its halves - and how their predictions become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Words:
    """An encoded prompt."""

    context: Tensor
    """(tokens, hidden size)."""
    pooled: Tensor | None = None
    """(hidden size,): all of it in one vector, for models that want that beside the tokens; others None."""

    @property
    def nbytes(self) -> int:
        """What the tensors take."""
        return self.context.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass(frozen=True)
class Weighted:
    """One of the prompts a picture is led towards."""

    words: Words
    weight: float = 1.0
    """Of its own share of the guidance; those of prompts joined by AND need not add up to 1."""


@dataclass(frozen=True)
class Half:
    """One sample of the joint forward. Most rows take two, which gave it the name."""

    words: Words
    is_unconditional: bool = False
    """Without the prompt, in a row that has both."""
    is_perturbed: bool = False
    """See `perturbed_attention.py`."""


def halves_of(prompts: Sequence[Weighted], negative: Words | None, *, has_perturbed: bool) -> list[Half]:
    """In the order that `guided` expects: the unconditional half, the prompts, the first prompt perturbed."""
    halves = [] if negative is None else [Half(negative, is_unconditional=True)]
    halves += [Half(prompt.words) for prompt in prompts]
    return [*halves, Half(prompts[0].words, is_perturbed=True)] if has_perturbed else halves


def guided(
    predicted: Tensor, prompts: Sequence[Weighted], *, has_negative: bool, guidance_scale: float, perturbation_scale: float | None
) -> Tensor:
    """(1, 4, h, w) from the predictions (halves, 4, h, w) of one row.

    Away from the unconditional half towards every prompt by its weight (Liu et al. 2022, "Compositional Visual Generation with
    Composable Diffusion Models"), and away from the perturbed half.
    """
    first = int(has_negative)
    towards = predicted[first : first + len(prompts)]
    if not has_negative:
        led = towards[:1]
    elif len(prompts) == 1 and prompts[0].weight == 1:
        led = predicted[:1] + guidance_scale * (towards - predicted[:1])
    else:
        weights = predicted.new_tensor([prompt.weight for prompt in prompts])[:, None, None, None]
        led = predicted[:1] + guidance_scale * (weights * (towards - predicted[:1])).sum(dim=0, keepdim=True)
    return led if perturbation_scale is None else led + perturbation_scale * (towards[:1] - predicted[-1:])
