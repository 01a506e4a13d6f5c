"""Samplers are known by diffusers' names, A1111's and k-diffusion's."""

from __future__ import annotations

import pytest

from sdapi.domain.generation import AlgorithmType, SchedulerName
from sdapi.domain.sampler_names import a1111_name, sampler_named


@pytest.mark.parametrize(
    ("spelt", "scheduler", "karras", "algorithm"),
    [
        ("DPM++ 2M Karras", SchedulerName.DPM_MULTISTEP, True, "dpmsolver++"),
        ("DPM++ 2M", SchedulerName.DPM_MULTISTEP, False, "dpmsolver++"),
        ("DPM++ 2M SDE Karras", SchedulerName.DPM_MULTISTEP, True, "sde-dpmsolver++"),
        ("DPM++ 2M SDE Exponential", SchedulerName.DPM_MULTISTEP, True, "sde-dpmsolver++"),
        ("DPM++ 2M SDE Heun Karras", SchedulerName.DPM_MULTISTEP, True, "sde-dpmsolver++"),
        ("DPM++ 3M SDE Karras", SchedulerName.DPM_MULTISTEP, True, "sde-dpmsolver++"),
        ("DPM++ SDE Karras", SchedulerName.DPM_SDE, True, None),
        ("DPM++ SDE", SchedulerName.DPM_SDE, False, None),
        ("DPM++ 2S a", SchedulerName.DPM_SINGLESTEP, False, "sde-dpmsolver++"),
        ("DPM++ 2S a Karras", SchedulerName.DPM_SINGLESTEP, True, "sde-dpmsolver++"),
        ("DPM2 a Karras", SchedulerName.KDPM2_ANCESTRAL, True, None),
        ("DPM2", SchedulerName.KDPM2, False, None),
        ("DPM fast", SchedulerName.DPM_SINGLESTEP, False, "dpmsolver++"),
        ("DPM adaptive", SchedulerName.DPM_SINGLESTEP, True, "dpmsolver++"),
        ("Restart", SchedulerName.KARRAS_VE, True, None),
        ("Euler a", SchedulerName.EULER_ANCESTRAL, False, None),
        ("Euler", SchedulerName.EULER, False, None),
        ("Heun", SchedulerName.HEUN, False, None),
        ("LMS Karras", SchedulerName.LMS, True, None),
        ("DDIM", SchedulerName.DDIM, False, None),
        ("PLMS", SchedulerName.PNDM, False, None),
        ("UniPC", SchedulerName.UNIPC, False, None),
        ("LCM", SchedulerName.LCM, False, None),
        ("TCD", SchedulerName.TCD, False, None),
    ],
)
def test_a_name_of_a1111_is_a_class_a_spacing_and_an_algorithm(
    spelt: str, scheduler: SchedulerName, karras: bool, algorithm: AlgorithmType | None
) -> None:
    named = sampler_named(spelt)
    assert named is not None
    assert (named.told, named.scheduler, named.use_karras_sigmas, named.algorithm_type) == (spelt, scheduler, karras, algorithm)


@pytest.mark.parametrize(
    ("spelt", "told"),
    [
        ("euler_a", "Euler a"),
        ("k_euler_ancestral", "Euler a"),
        ("k_dpm_2_a", "DPM2 a"),
        ("k_dpmpp_2m_karras", "DPM++ 2M Karras"),
        ("dpmpp-2s-ancestral", "DPM++ 2S a"),
        (" dpm++ 2m karras ", "DPM++ 2M Karras"),
        ("plms", "PLMS"),
        ("EulerDiscrete", "EulerDiscreteScheduler"),
        ("ddimscheduler", "DDIMScheduler"),
    ],
)
def test_blanks_case_and_other_programs_spellings_do_not_matter(spelt: str, told: str) -> None:
    named = sampler_named(spelt)
    assert named is not None
    assert named.told == told


@pytest.mark.parametrize("name", SchedulerName)
def test_a_class_says_nothing_of_spacing_or_algorithm(name: SchedulerName) -> None:
    named = sampler_named(name.value)
    assert named is not None
    assert (named.told, named.scheduler, named.use_karras_sigmas, named.algorithm_type) == (name.value, name, None, None)


@pytest.mark.parametrize("spelt", ["", "Magic", "Karras", "Euler b", "k_", "DPM++"])
def test_what_is_no_name_is_none(spelt: str) -> None:
    assert sampler_named(spelt) is None


@pytest.mark.parametrize("name", SchedulerName)
@pytest.mark.parametrize("karras", [None, True])
@pytest.mark.parametrize("algorithm", [None, "sde-dpmsolver++"])
def test_a_name_that_is_written_can_be_read_again(name: SchedulerName, karras: bool | None, algorithm: AlgorithmType | None) -> None:
    assert sampler_named(a1111_name(name, use_karras_sigmas=karras, algorithm_type=algorithm)) is not None
