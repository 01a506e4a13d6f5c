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
    """In this order: the unconditional half, the prompts, the first prompt perturbed."""
    halves = [] if negative is None else [Half(negative, is_unconditional=True)]
    halves += [Half(prompt.words) for prompt in prompts]
    return [*halves, Half(prompts[0].words, is_perturbed=True)] if has_perturbed else halves


def guidance_of(prompts: Sequence[Weighted], *, has_negative: bool, guidance_scale: float, perturbation_scale: float | None) -> list[float]:
    """How often each half's prediction counts, in the order of `halves_of`; they add up to 1.

    Away from the unconditional half towards every prompt by its weight (Liu et al. 2022, "Compositional Visual Generation with
    Composable Diffusion Models"), and away from the perturbed half.
    """
    if has_negative:
        towards = [guidance_scale * prompt.weight for prompt in prompts]
        shares = [1 - sum(towards), *towards]
    else:
        shares = [1.0, *[0.0] * (len(prompts) - 1)]
    if perturbation_scale is None:
        return shares
    shares[int(has_negative)] += perturbation_scale
    return [*shares, -perturbation_scale]
