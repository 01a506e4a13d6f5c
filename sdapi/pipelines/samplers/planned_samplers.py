"""Rows' places on plans, and the step that takes rows of any plans, at any of their steps, on together in one operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdapi.pipelines.samplers.row_sums import added_up, brought
from sdapi.pipelines.samplers.sampler import Sampler, clean_latents
from sdapi.pipelines.samplers.sampler_plans import Plan


class PlannedSampler:
    """One row's sampler, of which there is a plan. As `Sampler`, but with no scheduler object of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._history: Tensor | None = None
        """(slots - 1, 4, h, w); None before the first step, and where the plan remembers nothing."""
        self.position = 0

    @property
    def name(self) -> str:
        """See Sampler."""
        return self._plan.name

    @property
    def timesteps(self) -> Tensor:
        """See Sampler."""
        return self._plan.timesteps

    @property
    def finished(self) -> bool:
        """See Sampler."""
        return self.position >= len(self._plan.draws)

    @property
    def timestep(self) -> Tensor:
        """See Sampler."""
        return self._plan.timesteps[self.position]

    @property
    def initial_noise_sigma(self) -> float:
        """See Sampler."""
        return self._plan.initial_noise_sigma

    @property
    def input_scale(self) -> float:
        """What latents are multiplied by for the UNet at the current timestep."""
        return self._plan.input_scales[self.position]

    def add_noise(self, latents: Tensor, noise: Tensor) -> Tensor:
        """See Sampler."""
        signal, share = self._plan.noisings[self.position]
        return torch.add(signal * latents, noise, alpha=share)

    def model_input(self, latents: Tensor) -> Tensor:
        """See Sampler."""
        return latents if self.input_scale == 1 else latents * self.input_scale

    def denoised(self, predicted: Tensor, latents: Tensor) -> Tensor:
        """See Sampler."""
        plan = self._plan
        return clean_latents(predicted, self.model_input(latents), plan.prediction_type, plan.kept_signals[self.position])

    def advance(self, predicted: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """See Sampler."""
        (stepped,) = advanced_together([Move(self, predicted, latents, generator)])
        return stepped

    @property
    def slots(self) -> int:
        """See Plan."""
        return self._plan.slots

    @property
    def draws(self) -> bool:
        """Whether the current step takes noise from the row's generator."""
        return self._plan.draws[self.position]

    def coefficients(self, slots: int, device: torch.device) -> Tensor:
        """Of the current step, for a state that has `slots`; see Plan."""
        return self._plan.coefficients(self.position, slots, device)

    def state(self, latents: Tensor) -> list[Tensor]:
        """What adds up to (slots, 4, h, w): the latents and what is remembered, which is nothing at first."""
        if self.slots == 1:
            return [latents]
        return [latents, latents.new_zeros((self.slots - 1, *latents.shape[1:])) if self._history is None else self._history]

    def moved_on(self, state: Tensor) -> Tensor:
        """The latents (1, 4, h, w) of `state` (at least slots, 4, h, w), which is the row's after the current step; the next begins."""
        self._history = state[1 : self.slots] if self.slots > 1 else None
        self.position += 1
        return state[:1]


AnySampler = Sampler | PlannedSampler


@dataclass(frozen=True)
class Move:
    """What a row's step is made of."""

    sampler: PlannedSampler
    predicted: Tensor
    """(1, 4, h, w), float32, on the latents' device."""
    latents: Tensor
    """Of the same shape."""
    generator: torch.Generator
    """The row's own, on the CPU."""


def advanced_together(moves: Sequence[Move]) -> list[Tensor]:
    """The latents (1, 4, h, w) of each row after its current timestep; their samplers move on to the next. All have one size.

    Where it raises, as when memory runs out, no sampler has moved and every generator stands where it stood.
    """
    before = [(move.generator, move.generator.get_state()) for move in moves if move.sampler.draws]
    try:
        states = _stepped(moves)
    except BaseException:
        for generator, state in before:
            generator.set_state(state)
        raise
    return [move.sampler.moved_on(state) for move, state in zip(moves, states, strict=True)]


def _stepped(moves: Sequence[Move]) -> Tensor:
    """(rows, slots, 4, h, w): the states after the step, each with as many slots as the row that has most. Changes generators alone."""
    latents = moves[0].latents
    slots = max(move.sampler.slots for move in moves)
    coefficients = torch.stack([move.sampler.coefficients(slots, latents.device) for move in moves])
    noises = _noises(moves)
    if not noises:
        coefficients = coefficients[..., :-1]
    zeros = latents.new_zeros((slots, *latents.shape[1:]))
    parts: list[Tensor] = []
    for number, move in enumerate(moves):
        parts += move.sampler.state(move.latents)
        if move.sampler.slots < slots:
            parts.append(zeros[move.sampler.slots :])
        parts.append(move.predicted)
        if noises:
            parts.append(noises.get(number, zeros[:1]))
    taken = torch.cat(parts).view(len(moves), coefficients.shape[-1], -1)
    return added_up(coefficients, taken).view(len(moves), slots, *latents.shape[1:])


def _noises(moves: Sequence[Move]) -> dict[int, Tensor]:
    """(1, 4, h, w) for each that draws, by its number, from its own generator."""
    drawing = [number for number, move in enumerate(moves) if move.sampler.draws]
    if not drawing:
        return {}
    drawn = torch.cat([torch.randn(moves[number].latents.shape, generator=moves[number].generator) for number in drawing])
    ready = brought(drawn, moves[0].latents.device)
    return {number: ready[index : index + 1] for index, number in enumerate(drawing)}
