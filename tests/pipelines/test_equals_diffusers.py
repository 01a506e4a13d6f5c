"""A lone picture is the one diffusers' own pipeline draws: users can trust what they see."""

from __future__ import annotations

import diffusers
import pytest
import torch
from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene

from sdapi.domain.generation import SchedulerName
from sdapi.engine.availability import missing

from .drawing import a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference

CLOSENESS = 1
"""Of 255: rounding of the last bit. Most pictures are equal to the byte."""
SCHEDULERS = [name for name in SchedulerName if missing(a_request(scheduler=name)) is None]


def stock(pipeline_class: type[diffusers.DiffusionPipeline], scheduler: SchedulerName) -> diffusers.DiffusionPipeline:
    parts = demo_parts()
    pipeline = pipeline_class(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=getattr(diffusers, scheduler.value).from_config(dict(parts.scheduler_config)),
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
        generator=torch.Generator().manual_seed(7),
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
