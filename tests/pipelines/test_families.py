"""Stable Diffusion 2.x, of both predictions, and XL draw what stock diffusers draws, alone and together."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.generation import SchedulerName, Txt2Img
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.samplers.sampler import Sampler
from sdapi.pipelines.scheduling.row import Row

from .drawing import Studio, a_request, an_img2img_request, an_inpaint_request, greatest_difference
from .test_equals_diffusers import STAND_INS, an_init_image, eta_of
from .tiny_families import SD1, SD2, SD2_V, XL, Kind, called, draw_with, parts_of, stock

CLOSENESS = 1
"""Of 255, to the stock pipeline."""
BATCHED = 2
"""Of 255, to the same row alone."""
VISIBLE = 20

KINDS = [SD2, SD2_V, XL]


def a_mask() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 24, 48, 64))
    return mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"negative_prompt": "zebra"}, {"guidance_scale": 1}])
def test_txt2img_gives_the_picture_of_the_stock_pipeline(kind: Kind, changes: dict[str, object]) -> None:
    request = a_request(**changes)
    expected = called(stock(kind, "StableDiffusion{}Pipeline"), request, width=64, height=64)
    drawn = draw_with(parts_of(kind), request)
    assert greatest_difference(drawn, expected) <= CLOSENESS
    assert greatest_difference(drawn, draw_with(parts_of(kind), a_request(prompt="zebra"))) >= VISIBLE


def test_an_oblong_picture_of_xl_is_the_stock_one() -> None:
    request = a_request(width=96, height=64)
    expected = called(stock(XL, "StableDiffusion{}Pipeline"), request, width=96, height=64)
    assert greatest_difference(draw_with(parts_of(XL), request), expected) <= CLOSENESS


@pytest.mark.parametrize("kind", KINDS)
def test_img2img_gives_the_picture_of_the_stock_pipeline(kind: Kind) -> None:
    request = an_img2img_request(negative_prompt="zebra", steps=6)
    expected = called(stock(kind, "StableDiffusion{}Img2ImgPipeline"), request, image=an_init_image())
    assert greatest_difference(draw_with(parts_of(kind), request, an_init_image()), expected) <= CLOSENESS


@pytest.mark.parametrize("kind", [*KINDS, Kind("sd2", in_channels=9), Kind("sdxl", in_channels=9)])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_inpainting_draws_within_the_mask_what_the_stock_pipeline_draws(kind: Kind, strength: float) -> None:
    request = an_inpaint_request(negative_prompt="zebra", steps=5, strength=strength, scheduler=SchedulerName.DDIM)
    scheduler = diffusers.DDIMScheduler.from_config(dict(parts_of(kind).scheduler_config))
    pipeline = stock(kind, "StableDiffusion{}InpaintPipeline", scheduler)
    expected = called(pipeline, request, image=an_init_image(), mask_image=a_mask(), width=64, height=64)
    drawn = draw_with(parts_of(kind), request, an_init_image(), a_mask())
    inside = (20, 28, 44, 60)
    assert greatest_difference(drawn.crop(inside), expected.crop(inside)) <= CLOSENESS
    corner = (0, 0, 8, 8)
    assert greatest_difference(drawn.crop(corner), an_init_image().crop(corner)) == 0


@pytest.mark.parametrize("scheduler", list(SchedulerName))
def test_every_sampler_takes_velocity_for_what_it_is(scheduler: SchedulerName) -> None:
    class_name, own = STAND_INS.get(scheduler, (scheduler.value, {}))
    request = a_request(scheduler=scheduler, steps=5)
    made = getattr(diffusers, class_name).from_config(dict(parts_of(SD2_V).scheduler_config), **own)
    expected = called(stock(SD2_V, "StableDiffusion{}Pipeline", made), request, width=64, height=64, eta=eta_of(scheduler))
    assert made.config.prediction_type == "v_prediction"
    assert greatest_difference(draw_with(parts_of(SD2_V), request), expected) <= CLOSENESS


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", [SchedulerName.DDIM, SchedulerName.EULER, SchedulerName.DPM_MULTISTEP, SchedulerName.KARRAS_VE])
def test_a_preview_shows_the_picture_that_the_prediction_is_of(scheduler: SchedulerName, prediction_type: str) -> None:
    config = {**parts_of(SD2).scheduler_config, "prediction_type": prediction_type}
    sampler = Sampler(config, scheduler, steps=8, strength=0.5)
    generator = torch.Generator().manual_seed(3)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    noisy = sampler.add_noise(clean, noise)
    noise_share = (sampler.model_input(noisy) * noise).mean() / (noise * noise).mean()
    clean_share = (1 - noise_share**2) ** 0.5
    predicted = noise if prediction_type == "epsilon" else clean_share * noise - noise_share * clean
    assert (sampler.denoised(predicted, noisy) - clean).abs().max() < 0.35  # shares are measured on few numbers


class WatchedModel(UnetModel):
    """The real model, keeping a tally of its forwards."""

    def __init__(self, kind: Kind) -> None:
        super().__init__("demo", parts_of(kind))
        self.batches: list[int] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append(len(rows))
        return super().predict(rows)


@pytest.mark.parametrize("kind", [SD2_V, XL])
def test_rows_drawn_together_equal_the_same_rows_drawn_alone(kind: Kind) -> None:
    requests: list[Txt2Img] = [
        a_request(seed=1, steps=5),
        a_request(seed=2, prompt="zebra", negative_prompt="red", scheduler=SchedulerName.EULER_ANCESTRAL),
        a_request(seed=3, prompt="a (green:1.3) star", guidance_scale=1, steps=3),
        a_request(seed=4, prompt="sea AND sky :0.5", samples=2),
    ]
    init = an_init_image()
    over = an_img2img_request(seed=5, prompt="a white square", steps=8, strength=0.5)
    model = WatchedModel(kind)
    studio = Studio({"demo": model})
    asked = [*(studio.ask(request) for request in requests), studio.ask(over, init)]
    studio.draw()
    assert max(model.batches) >= 5, "the rows did share forwards"
    alone = [*(draw_with(parts_of(kind), request) for request in requests), draw_with(parts_of(kind), over, init)]
    for job, expected in zip(asked, alone, strict=True):
        assert greatest_difference(job.image, expected) <= BATCHED


def test_no_negative_prompt_is_zeros_where_the_model_was_trained_so_and_an_encoded_nothing_elsewhere() -> None:
    (row,) = UnetModel("demo", parts_of(XL)).prepare(a_request(), None)
    assert row.negative is not None
    assert row.negative.pooled is not None
    assert not row.negative.context.any()
    assert not row.negative.pooled.any()
    (other,) = UnetModel("demo", parts_of(SD1)).prepare(a_request(), None)
    assert other.negative is not None
    assert other.negative.context.any()
    assert other.negative.pooled is None
