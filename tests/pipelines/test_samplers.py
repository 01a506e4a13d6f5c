"""Karras sigmas as the request, or else the checkpoint, wants them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdapi.domain.generation import SchedulerName
from sdapi.pipelines.samplers import Sampler

from .drawing import a_request, demo_parts, draw_alone

KNOWING = [
    SchedulerName.LMS,
    SchedulerName.EULER,
    SchedulerName.DPM_MULTISTEP,
    SchedulerName.HEUN,
    SchedulerName.KDPM2,
    SchedulerName.DPM_SINGLESTEP,
    SchedulerName.KDPM2_ANCESTRAL,
    SchedulerName.UNIPC,
    SchedulerName.DEIS,
]


def a_sampler(name: SchedulerName, *, karras: bool | None, steps: int = 10, **config: Any) -> Sampler:
    return Sampler({**demo_parts().scheduler_config, **config}, name, steps=steps, strength=None, use_karras_sigmas=karras)


@pytest.mark.parametrize("name", KNOWING)
def test_karras_sigmas_change_the_spacing(name: SchedulerName) -> None:
    plain, karras = a_sampler(name, karras=False), a_sampler(name, karras=True)
    assert not torch.equal(plain.scheduler.sigmas, karras.scheduler.sigmas)


@pytest.mark.parametrize("name", [SchedulerName.DDPM, SchedulerName.DDIM, SchedulerName.PNDM, SchedulerName.EULER_ANCESTRAL])
def test_samplers_that_know_no_karras_sigmas_stay_as_they_are(name: SchedulerName) -> None:
    assert torch.equal(a_sampler(name, karras=None).timesteps, a_sampler(name, karras=True).timesteps)


def test_a_request_that_does_not_say_keeps_the_checkpoints_own() -> None:
    own = a_sampler(SchedulerName.EULER, karras=None, use_karras_sigmas=True)
    assert torch.equal(own.scheduler.sigmas, a_sampler(SchedulerName.EULER, karras=True).scheduler.sigmas)
    against = a_sampler(SchedulerName.EULER, karras=False, use_karras_sigmas=True)
    assert torch.equal(against.scheduler.sigmas, a_sampler(SchedulerName.EULER, karras=None).scheduler.sigmas)


@pytest.mark.parametrize("spacing", ["use_exponential_sigmas", "use_beta_sigmas"])
def test_karras_sigmas_take_the_place_of_the_checkpoints_other_spacing(spacing: str) -> None:
    sampler = a_sampler(SchedulerName.EULER, karras=True, **{spacing: True})
    assert torch.equal(sampler.scheduler.sigmas, a_sampler(SchedulerName.EULER, karras=True).scheduler.sigmas)


@pytest.mark.parametrize("name", KNOWING)
@pytest.mark.parametrize("steps", [1, 2, 3, 51])
def test_any_number_of_steps_can_be_spaced_so(name: SchedulerName, steps: int) -> None:
    assert torch.isfinite(a_sampler(name, karras=True, steps=steps).timesteps.float()).all()


def test_the_request_reaches_the_sampler() -> None:
    plain, karras = (draw_alone(a_request(steps=5, scheduler=SchedulerName.EULER, use_karras_sigmas=use)) for use in (False, True))
    assert plain.tobytes() != karras.tobytes()
