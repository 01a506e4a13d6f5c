"""A lone picture is the one diffusers' own pipeline draws: users can trust what they see."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene

from sdapi.domain.generation import SchedulerName

from .drawing import a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference

CLOSENESS = 1
"""Of 255: rounding of the last bit. Most pictures are equal to the byte."""
SCHEDULERS = list(SchedulerName)
STAND_INS: dict[SchedulerName, tuple[str, dict[str, Any]]] = {
    SchedulerName.KARRAS_VE: ("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
    SchedulerName.SCORE_SDE_VE: ("EulerAncestralDiscreteScheduler", {}),
    SchedulerName.DDIM_INVERSE: ("DDIMScheduler", {}),
    SchedulerName.IPNDM: ("LMSDiscreteScheduler", {}),
    SchedulerName.DPM_SDE: ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}
"""What is to draw under names that diffusers has no sampler for, or none without another library."""


def eta_of(scheduler: SchedulerName) -> float:
    """How much fresh noise to have the pipeline add: its own default, but TCD's that its authors recommend and its class has."""
    return 0.3 if scheduler is SchedulerName.TCD else 0.0


def stock(pipeline_class: type[diffusers.DiffusionPipeline], scheduler: SchedulerName, **settings: Any) -> diffusers.DiffusionPipeline:
    parts = demo_parts()
    class_name, own = STAND_INS.get(scheduler, (scheduler.value, {}))
    pipeline = pipeline_class(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=getattr(diffusers, class_name).from_config(dict(parts.scheduler_config), **own, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def an_init_image() -> Image.Image:
    picture: Image.Image = draw(Scene(shape="square", colour="green", background="white"), 64, 64)
    return picture


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_txt2img_gives_the_picture_of_the_stock_pipeline(scheduler: SchedulerName) -> None:
    request = a_request(scheduler=scheduler, steps=6, negative_prompt="blurry")
    expected = stock(diffusers.StableDiffusionPipeline, scheduler)(
        request.prompt,
        negative_prompt="blurry",
        width=64,
        height=64,
        num_inference_steps=6,
        guidance_scale=7.5,
        eta=eta_of(scheduler),
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert greatest_difference(draw_alone(request), expected) <= CLOSENESS


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        (SchedulerName.DPM_MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
        (SchedulerName.DPM_MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
        (SchedulerName.DPM_MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        (SchedulerName.DPM_SINGLESTEP, {"algorithm_type": "sde-dpmsolver++"}),
        (SchedulerName.DPM_SINGLESTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        (SchedulerName.DPM_SDE, {"use_karras_sigmas": True}),
    ],
)
def test_an_algorithm_and_a_spacing_are_those_of_the_stock_scheduler(scheduler: SchedulerName, settings: dict[str, Any]) -> None:
    asked = {name: value for name, value in settings.items() if name != "final_sigmas_type"}
    request = a_request(scheduler=scheduler, steps=5, **asked)
    expected = stock(diffusers.StableDiffusionPipeline, scheduler, **settings)(
        request.prompt, width=64, height=64, num_inference_steps=5, guidance_scale=7.5, generator=torch.Generator().manual_seed(7)
    ).images[0]
    assert greatest_difference(draw_alone(request), expected) <= CLOSENESS


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_img2img_gives_the_picture_of_the_stock_pipeline(scheduler: SchedulerName) -> None:
    request = an_img2img_request(scheduler=scheduler, steps=8, strength=0.6)
    expected = stock(diffusers.StableDiffusionImg2ImgPipeline, scheduler)(
        request.prompt,
        image=an_init_image(),
        strength=0.6,
        num_inference_steps=8,
        guidance_scale=7.5,
        eta=eta_of(scheduler),
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert greatest_difference(draw_alone(request, an_init_image()), expected) <= CLOSENESS


def test_without_guidance_the_unconditional_half_is_not_computed_and_the_picture_is_the_stock_one() -> None:
    request = a_request(guidance_scale=1, steps=5, scheduler=SchedulerName.DDIM)
    expected = stock(diffusers.StableDiffusionPipeline, SchedulerName.DDIM)(
        request.prompt, width=64, height=64, num_inference_steps=5, guidance_scale=1, generator=torch.Generator().manual_seed(7)
    ).images[0]
    assert greatest_difference(draw_alone(request), expected) <= CLOSENESS


def test_an_oblong_picture_is_the_stock_one() -> None:
    request = a_request(width=96, height=64)
    expected = stock(diffusers.StableDiffusionPipeline, SchedulerName(demo_parts().scheduler_config["_class_name"]))(
        request.prompt, width=96, height=64, num_inference_steps=4, guidance_scale=7.5, generator=torch.Generator().manual_seed(7)
    ).images[0]
    assert greatest_difference(draw_alone(request), expected) <= CLOSENESS
