"""Guidance of rows that share a forward: each row's own, however many halves its neighbours have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdapi.domain.generation import SchedulerName
from sdapi.pipelines.guidance.halves import Weighted, Words
from sdapi.pipelines.guidance.joint_guidance import guided_together
from sdapi.pipelines.samplers.sampler import Sampler
from sdapi.pipelines.scheduling.row import BatchKey, Row

from .drawing import demo_parts

WORDS = Words(torch.zeros(77, 8))
CLOSENESS = 1e-5


@dataclass(frozen=True)
class Asked:
    """What leads one row."""

    weights: tuple[float, ...] = (1.0,)
    has_negative: bool = True
    scale: float = 7.5
    perturbation: float | None = None

    def row(self) -> Row:
        prompts = tuple(Weighted(WORDS, weight) for weight in self.weights)
        sampler = Sampler(demo_parts().scheduler_config, SchedulerName.DDIM, steps=2, strength=None)
        latents, negative = torch.zeros(1, 4, 8, 8), WORDS if self.has_negative else None
        return Row(
            BatchKey("demo", 8, 8, 77),
            latents,
            sampler,
            torch.Generator(),
            prompts,
            negative,
            self.scale,
            perturbation_scale=self.perturbation,
        )

    def expected(self, seen: Tensor) -> Tensor:
        """By the equations as they are written in papers."""
        first = seen[int(self.has_negative)]
        led = first
        if self.has_negative:
            led = seen[0] + self.scale * sum(weight * (each - seen[0]) for weight, each in zip(self.weights, seen[1:], strict=False))
        return led if self.perturbation is None else led + self.perturbation * (first - seen[-1])


ASKED = [
    Asked(),
    Asked(has_negative=False, scale=1.0),
    Asked(weights=(0.7, -0.2, 1.1), scale=4.0),
    Asked(perturbation=3.0),
    Asked(has_negative=False, scale=1.0, perturbation=2.0),
    Asked(weights=(1.3,), scale=2.0),
]


def test_each_row_is_led_by_its_own_equation() -> None:
    rows = [asked.row() for asked in ASKED]
    seen = [torch.randn((len(row.halves), 4, 8, 8), generator=torch.Generator().manual_seed(seed)) for seed, row in enumerate(rows)]
    for asked, mine, led in zip(ASKED, seen, guided_together(rows, torch.cat(seen)), strict=True):
        assert led.shape == (1, 4, 8, 8)
        assert (led - asked.expected(mine)).abs().max() <= CLOSENESS * mine.abs().max() * 20, asked


def test_a_row_is_led_exactly_as_alone_and_no_neighbours_broken_half_reaches_it() -> None:
    rows = [asked.row() for asked in ASKED]
    seen = [torch.randn((len(row.halves), 4, 8, 8), generator=torch.Generator().manual_seed(seed)) for seed, row in enumerate(rows)]
    seen[2][:] = torch.nan
    together = guided_together(rows, torch.cat(seen))
    for number, (row, mine, led) in enumerate(zip(rows, seen, together, strict=True)):
        assert led.isnan().all() if number == 2 else torch.equal(led, guided_together([row], mine)[0])


def test_half_precision_is_added_up_in_single() -> None:
    row = Asked().row()
    seen = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1)).half()
    (led,) = guided_together([row], seen)
    assert led.dtype == torch.float32
    assert torch.allclose(led[0], Asked().expected(seen.float()), atol=1e-4)
