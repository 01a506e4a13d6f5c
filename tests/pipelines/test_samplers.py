"""Every name of a sampler draws the prompt, alone as in company; Karras sigmas and algorithms as asked, or else as the model has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import Scene

from sdapi.domain.generation import AlgorithmType, Img2Img, SchedulerName, Txt2Img
from sdapi.domain.sampler_names import WITH_KARRAS_SIGMAS
from sdapi.pipelines.samplers.sampler import Sampler

from .drawing import Studio, a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference

KNOWING = sorted(WITH_KARRAS_SIGMAS)
CLOSENESS = 2
"""Of 255. Larger matrix products round differently; over a few steps that may tip a pixel by one or two."""
STAND_INS = {
    SchedulerName.KARRAS_VE: "KDPM2AncestralDiscreteScheduler",
    SchedulerName.SCORE_SDE_VE: "EulerAncestralDiscreteScheduler",
    SchedulerName.DDIM_INVERSE: "DDIMScheduler",
    SchedulerName.IPNDM: "LMSDiscreteScheduler",
    SchedulerName.DPM_SDE: "DPMSolverSinglestepScheduler",
}
DPM_SOLVERS = [SchedulerName.DPM_MULTISTEP, SchedulerName.DPM_SINGLESTEP]
STOCHASTIC: list[dict[str, Any]] = [
    {"scheduler": SchedulerName.DDPM},
    {"scheduler": SchedulerName.EULER_ANCESTRAL},
    {"scheduler": SchedulerName.KDPM2_ANCESTRAL},
    {"scheduler": SchedulerName.KARRAS_VE},
    {"scheduler": SchedulerName.SCORE_SDE_VE},
    {"scheduler": SchedulerName.LCM},
    {"scheduler": SchedulerName.TCD},
    {"scheduler": SchedulerName.DPM_SDE},
    {"scheduler": SchedulerName.DPM_MULTISTEP, "algorithm_type": "sde-dpmsolver++"},
    {"scheduler": SchedulerName.DPM_SINGLESTEP, "algorithm_type": "sde-dpmsolver++"},
]


def drawn_together(requests: list[Txt2Img] | list[Img2Img], init_image: Image.Image | None = None) -> list[Image.Image]:
    studio = Studio(max_batch_rows=32)
    asked = [studio.ask(request, init_image) for request in requests]
    studio.draw()
    return [job.image for job in asked]


@pytest.fixture(scope="module")
def stars() -> dict[SchedulerName, Image.Image]:
    """What every sampler makes of one prompt, in 20 steps from noise."""
    prompt = "a yellow star on a purple background"
    requests = [a_request(scheduler=name, prompt=prompt, width=128, height=128, steps=20, seed=3) for name in SchedulerName]
    return dict(zip(SchedulerName, drawn_together(requests), strict=True))


@pytest.fixture(scope="module")
def circles() -> dict[SchedulerName, Image.Image]:
    """What every sampler makes of one prompt, in 16 of 20 steps from a picture of something else."""
    init = draw(Scene(shape="square", colour="green", background="white"), 128, 128)
    size = {"width": 128, "height": 128}
    requests = [an_img2img_request(scheduler=name, steps=20, strength=0.8, seed=3, **size) for name in SchedulerName]
    return dict(zip(SchedulerName, drawn_together(requests, init), strict=True))


@pytest.mark.parametrize("name", SchedulerName)
def test_every_sampler_draws_what_the_prompt_says(name: SchedulerName, stars: dict[SchedulerName, Image.Image]) -> None:
    finding = detect(stars[name])
    assert (finding.background, finding.colour, finding.shape) == ("purple", "yellow", "star")


@pytest.mark.parametrize("name", SchedulerName)
def test_every_sampler_draws_over_a_picture(name: SchedulerName, circles: dict[SchedulerName, Image.Image]) -> None:
    finding = detect(circles[name])
    assert (finding.background, finding.colour) == ("blue", "red")


@pytest.mark.parametrize("karras", [False, True])
def test_every_sampler_draws_the_same_alone_and_in_company(karras: bool) -> None:
    requests = [
        a_request(scheduler=name, seed=seed, steps=4, use_karras_sigmas=karras, algorithm_type="sde-dpmsolver++")
        for seed, name in enumerate(SchedulerName)
    ]
    for request, together in zip(requests, drawn_together(requests), strict=True):
        assert greatest_difference(together, draw_alone(request)) <= CLOSENESS, request.scheduler


@pytest.mark.parametrize("asked", STOCHASTIC)
def test_noise_comes_from_the_rows_own_seed(asked: dict[str, Any]) -> None:
    first, again = (draw_alone(a_request(seed=5, **asked)) for _ in range(2))
    torch.manual_seed(1)
    assert first.tobytes() == again.tobytes() == draw_alone(a_request(seed=5, **asked)).tobytes()


@pytest.mark.parametrize("name", SchedulerName)
def test_a_sampler_is_known_by_the_name_it_was_asked_by(name: SchedulerName) -> None:
    sampler = a_sampler(name, karras=None)
    assert sampler.name == name
    assert type(sampler.scheduler).__name__ == STAND_INS.get(name, name.value)


def test_a_model_may_name_a_sampler_that_another_draws_for() -> None:
    config = {**demo_parts().scheduler_config, "_class_name": "KarrasVeScheduler"}
    sampler = Sampler(config, None, steps=5, strength=None)
    assert (sampler.name, bool(sampler.scheduler.config.use_karras_sigmas)) == ("KarrasVeScheduler", True)


@pytest.mark.parametrize("name", SchedulerName)
@pytest.mark.parametrize("steps", [1, 2, 51])
@pytest.mark.parametrize("algorithm", [None, "dpmsolver", "sde-dpmsolver"])
def test_any_number_of_steps_ends_in_numbers(name: SchedulerName, steps: int, algorithm: AlgorithmType | None) -> None:
    for strength in (None, 0.3):
        sampler = Sampler(demo_parts().scheduler_config, name, steps=steps, strength=strength, algorithm_type=algorithm)
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn((1, 4, 2, 2), generator=generator) * sampler.initial_noise_sigma
        while not sampler.finished:
            latents = sampler.advance(sampler.model_input(latents), latents, generator)
        assert torch.isfinite(latents).all()


@pytest.mark.parametrize("name", DPM_SOLVERS)
@pytest.mark.parametrize("algorithm", ["dpmsolver", "sde-dpmsolver++"])
def test_an_algorithm_is_that_of_the_dpm_solver(name: SchedulerName, algorithm: AlgorithmType) -> None:
    sampler = Sampler(demo_parts().scheduler_config, name, steps=5, strength=None, algorithm_type=algorithm)
    assert sampler.scheduler.config.algorithm_type == algorithm
    plain, other = (draw_alone(a_request(scheduler=name, steps=5, algorithm_type=asked)) for asked in (None, algorithm))
    assert plain.tobytes() != other.tobytes()


def test_a_request_without_an_algorithm_keeps_the_models_own() -> None:
    config = {**demo_parts().scheduler_config, "algorithm_type": "sde-dpmsolver++"}
    own = Sampler(config, SchedulerName.DPM_MULTISTEP, steps=5, strength=None)
    assert own.scheduler.config.algorithm_type == "sde-dpmsolver++"
    other = Sampler(config, SchedulerName.DPM_MULTISTEP, steps=5, strength=None, algorithm_type="dpmsolver++")
    assert other.scheduler.config.algorithm_type == "dpmsolver++"


@pytest.mark.parametrize("name", sorted(set(SchedulerName) - set(DPM_SOLVERS)))
def test_an_algorithm_means_nothing_to_others(name: SchedulerName) -> None:
    parts = demo_parts()
    plain = Sampler(parts.scheduler_config, name, steps=5, strength=None).scheduler
    other = Sampler(parts.scheduler_config, name, steps=5, strength=None, algorithm_type="dpmsolver").scheduler
    assert plain.config == other.config


def test_the_names_with_karras_sigmas_are_those_whose_class_has_them() -> None:
    def knows(name: SchedulerName) -> bool:
        return "use_karras_sigmas" in a_sampler(name, karras=None).scheduler.config

    assert {name for name in SchedulerName if knows(name)} - {SchedulerName.KARRAS_VE} == WITH_KARRAS_SIGMAS


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
