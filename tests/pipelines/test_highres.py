"""The high-resolution fix: drawn small, enlarged, drawn over, each phase with its like."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import numpy as np
import pytest
import torch
from recipe.drawing import draw
from recipe.scenes import Scene
from torch import Tensor
from torch.nn import functional

from sdapi.domain.generation import ControlNet, SchedulerName
from sdapi.domain.highres import first_size
from sdapi.domain.progress import Progress
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped

from . import tiny_families
from .control_nets import a_control_net, a_control_net_model
from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference
from .test_equals_diffusers import CLOSENESS as STOCK_CLOSENESS
from .test_equals_diffusers import eta_of, stock
from .tiny_families import XL, Kind, draw_with, parts_of

CLOSENESS = 2
"""Of 255, as in test_batching."""


class WatchedModel(UnetModel):
    """The real model, keeping a tally of how many rows of which latent width shared a forward."""

    def __init__(self) -> None:
        super().__init__("demo", demo_parts())
        self.batches: list[tuple[int, int]] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append((len(rows), rows[0].key.latent_width))
        return super().predict(rows)


@pytest.mark.parametrize(
    ("asked", "native_px", "first"),
    [
        ((1024, 1024), 512, (512, 512)),
        ((768, 768), 512, (512, 512)),
        ((1024, 576), 512, (680, 384)),
        ((512, 512), 512, (384, 384)),
        ((2048, 1024), 1024, (1448, 728)),
        ((128, 128), 512, (96, 96)),
        ((64, 1024), 512, (64, 768)),
        ((64, 64), 512, (64, 64)),
    ],
)
def test_the_first_drawing_has_the_models_own_area_and_at_most_three_quarters_of_the_sides(
    asked: tuple[int, int], native_px: int, first: tuple[int, int]
) -> None:
    assert first_size(*asked, native_px=native_px) == first


@pytest.mark.parametrize("scheduler", [SchedulerName.DPM_MULTISTEP, SchedulerName.EULER_ANCESTRAL, SchedulerName.HEUN])
def test_it_is_the_picture_of_a_small_drawing_enlarged_and_drawn_over_with_stock_pipelines(scheduler: SchedulerName) -> None:
    words = {"num_inference_steps": 6, "guidance_scale": 7.5, "negative_prompt": "blurry", "eta": eta_of(scheduler)}
    request = a_request(width=128, height=160, steps=6, scheduler=scheduler, negative_prompt="blurry", highres_fix=True)
    generator = torch.Generator().manual_seed(7)
    small = stock(diffusers.StableDiffusionPipeline, scheduler)(
        request.prompt, width=96, height=120, generator=generator, output_type="latent", **words
    ).images
    large = functional.interpolate(small, size=(20, 16), mode="bilinear", antialias=True)
    drawn_over = stock(diffusers.StableDiffusionImg2ImgPipeline, scheduler)
    expected = drawn_over(request.prompt, image=large, strength=0.6, generator=generator, **words).images[0]

    fixed = draw_alone(request)
    assert fixed.size == (128, 160)
    assert greatest_difference(fixed, expected) <= STOCK_CLOSENESS
    assert greatest_difference(fixed, draw_alone(request.model_copy(update={"highres_fix": False}))) > 20


def test_models_that_are_told_the_size_are_told_that_of_each_phase() -> None:
    request = a_request(width=96, height=96, steps=5, highres_fix=True)
    words = {"num_inference_steps": 5, "guidance_scale": 7.5, "generator": torch.Generator().manual_seed(7)}
    small = tiny_families.stock(XL, "StableDiffusion{}Pipeline")(request.prompt, width=64, height=64, output_type="latent", **words).images
    large = functional.interpolate(small, size=(12, 12), mode="bilinear", antialias=True)
    drawn_over = tiny_families.stock(XL, "StableDiffusion{}Img2ImgPipeline")
    expected = drawn_over(request.prompt, image=large, strength=0.6, original_size=(96, 96), target_size=(96, 96), **words).images[0]
    assert greatest_difference(draw_with(parts_of(XL), request), expected) <= STOCK_CLOSENESS


def test_an_inpainting_model_can_do_it_too() -> None:
    parts = parts_of(Kind("sd2", in_channels=9))
    fixed, plain = (draw_with(parts, a_request(width=96, height=96, steps=3, highres_fix=fix)) for fix in (True, False))
    assert fixed.size == (96, 96)
    assert greatest_difference(fixed, plain) > 20


def test_rows_in_either_phase_share_forwards_with_rows_of_their_size_and_stay_as_they_are_alone() -> None:
    requests = [
        a_request(width=96, height=96, steps=8, highres_fix=True, seed=1),
        a_request(width=96, height=96, steps=8, highres_fix=True, seed=2, scheduler=SchedulerName.EULER_ANCESTRAL),
        a_request(width=72, height=72, steps=9, seed=3),
        a_request(width=96, height=96, steps=14, seed=4),
    ]
    model = WatchedModel()
    studio = Studio({"demo": model})
    asked = [studio.ask(request) for request in requests]
    studio.draw()
    assert {(3, 9), (3, 12)} <= set(model.batches), "two at work on their fix and one beside them, in both phases"
    for job, request in zip(asked, requests, strict=True):
        assert greatest_difference(job.image, draw_alone(request)) <= CLOSENESS, request


def test_progress_counts_both_phases_from_the_start() -> None:
    studio = Studio()
    job = studio.ask(a_request(width=96, height=96, steps=5, samples=2, highres_fix=True))
    studio.draw()
    assert {progress.steps for progress in job.progress} == {2 * (5 + 3)}
    assert job.progress[-1] == Progress(16, 16)
    assert [p.step for p in job.progress] == sorted(p.step for p in job.progress)
    (result,) = job.results
    assert isinstance(result, Pictures)
    assert greatest_difference(result.images[1], draw_alone(a_request(width=96, height=96, steps=5, seed=8, highres_fix=True))) <= CLOSENESS


def test_a_job_cancelled_in_its_second_phase_stops_and_its_neighbour_goes_on() -> None:
    studio = Studio()

    def cancel(progress: Progress) -> None:
        if progress.step == 6:
            victim.ticket.cancelled.set()

    survivor = studio.ask(a_request(width=96, height=96, steps=5, seed=2, highres_fix=True))
    victim = studio.ask(a_request(width=96, height=96, steps=5, highres_fix=True), on_step=cancel)
    studio.draw()
    assert isinstance(victim.results[0], Stopped)
    assert victim.progress[-1].step <= 7
    assert greatest_difference(survivor.image, draw_alone(a_request(width=96, height=96, steps=5, seed=2, highres_fix=True))) <= CLOSENESS


def test_both_phases_can_be_looked_at() -> None:
    model = WatchedModel()
    studio = Studio({"demo": model})
    seen: list[tuple[int, int]] = []

    def look(progress: Progress) -> None:
        if progress.step in (2, 6):
            studio.loop.preview(0, lambda image: seen.append(image.size if image is not None else (0, 0)))

    studio.ask(a_request(width=128, height=64, steps=5, highres_fix=True), on_step=look)
    studio.draw()
    assert seen == [(96, 64), (128, 64)]


def test_control_nets_lead_each_phase_by_a_map_of_its_size() -> None:
    values = a_request(width=128, height=128, steps=5, scheduler=SchedulerName.DDIM).model_dump(exclude={"kind"})
    request = ControlNet.model_validate(
        {**values, "controlnet_models": ("net",), "auto_hint": False, "init_image": "x", "highres_fix": True, "conditioning_scales": (0.8,)}
    )
    picture = draw(Scene(shape="star", colour="yellow", background="black"), 128, 128)
    studio = Studio(control_nets={"net": a_control_net(1)})
    led = studio.ask(request, picture)
    studio.draw()

    def pipeline(kind: type[diffusers.DiffusionPipeline]) -> diffusers.DiffusionPipeline:
        parts = stock(diffusers.StableDiffusionPipeline, SchedulerName.DDIM).components
        shell = kind(**parts, controlnet=a_control_net_model(1), requires_safety_checker=False)
        shell.set_progress_bar_config(disable=True)
        return shell

    def shown(side_px: int) -> Tensor:
        resized = picture.resize((side_px, side_px), 1) if picture.size != (side_px, side_px) else picture
        return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255).permute(2, 0, 1)[None]

    generator = torch.Generator().manual_seed(7)
    common = {"num_inference_steps": 5, "guidance_scale": 7.5, "controlnet_conditioning_scale": 0.8, "generator": generator}
    small = pipeline(diffusers.StableDiffusionControlNetPipeline)(
        request.prompt, image=shown(96), width=96, height=96, output_type="latent", **common
    ).images
    large = functional.interpolate(small, size=(16, 16), mode="bilinear", antialias=True)
    expected = pipeline(diffusers.StableDiffusionControlNetImg2ImgPipeline)(
        request.prompt, image=large, control_image=shown(128), strength=0.6, width=128, height=128, **common
    ).images[0]
    assert greatest_difference(led.image, expected) <= STOCK_CLOSENESS
