"""Panoramas: the stock pipeline's picture, without a seam, beside one another, and no trace afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from recipe.detector import detect
from torch import Tensor

from sdapi.domain.generation import SchedulerName, Txt2Img
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.guidance.panorama import window_of
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.scheduling.row import Row

from .drawing import Studio, a_request, demo_parts, greatest_difference
from .test_equals_diffusers import stock
from .tiny_families import SD2_V, XL, Kind, draw_with, parts_of

CLOSENESS = 1
TOGETHER = 2
VISIBLE = 20
DDIM = SchedulerName.DDIM


@cache
def small() -> UnetComponents:
    """The embedded model, as if it had been trained at 128 px: its panoramas are then quickly drawn."""
    unet = copy.deepcopy(demo_parts().unet)
    unet.register_to_config(sample_size=16)
    return replace(demo_parts(), unet=unet)


class WatchedModel(UnetModel):
    """That model, keeping a tally of what shares forwards: (height, width) of each row or window, in latents."""

    def __init__(self) -> None:
        super().__init__("demo", small())
        self.forwards: list[list[tuple[int, int]]] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.forwards.append([(row.latents.shape[-2], row.latents.shape[-1]) for row in rows])
        return super().predict(rows)


def drawn(*requests: Txt2Img, model: UnetModel | None = None) -> list[Image.Image]:
    """The requests' pictures, drawn together."""
    studio = Studio({"demo": model or WatchedModel()})
    asked = [studio.ask(request) for request in requests]
    studio.draw()
    return [one.image for one in asked]


def a_panorama(**changes: object) -> Txt2Img:
    return a_request(**{"panorama": True, "width": 320, "height": 128, "scheduler": DDIM, **changes})


class StockPanorama(diffusers.StableDiffusionPanoramaPipeline):  # type: ignore[misc]
    """Diffusers' own, with windows of that model's size instead of Stable Diffusion 1's."""

    def get_views(self, panorama_height: int, panorama_width: int, **settings: Any) -> list[tuple[int, int, int, int]]:
        views: list[tuple[int, int, int, int]] = super().get_views(panorama_height, panorama_width, window_size=16, stride=4, **settings)
        return views


class EvenModel(WatchedModel):
    """With the windows of diffusers' pipeline: more of them over a place, and all count alike."""

    def prepare(self, *asked: Any, **pictures: Any) -> list[Row]:
        rows = super().prepare(*asked, **pictures)
        for row in rows:
            row.window = replace(row.window, over_a_place=4, spread=math.inf) if row.window is not None else None
        return rows


@pytest.mark.parametrize("guidance_scale", [7.5, 1])
def test_with_even_windows_the_picture_is_that_of_the_stock_pipeline_in_the_round(guidance_scale: float) -> None:
    expected = stock(StockPanorama, DDIM)(
        a_request().prompt,
        width=160,
        height=128,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        circular_padding=True,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    request = a_panorama(width=160, steps=3, guidance_scale=guidance_scale)
    (picture,) = drawn(request, model=EvenModel())
    (plain,) = drawn(request.model_copy(update={"panorama": False}))
    assert greatest_difference(picture, expected) <= CLOSENESS
    assert greatest_difference(plain, expected) >= VISIBLE


def contrasts(picture: Image.Image) -> list[float]:
    """How much the pixels at each border of latents differ from those on their right, the last from the first; mean of 255."""
    pixels = np.asarray(picture, dtype=np.float32)
    return [float(value) for value in np.abs(np.roll(pixels, -1, axis=1) - pixels).mean(axis=(0, 2))[7::8]]


@pytest.mark.parametrize(("width", "height"), [(320, 128), (96, 64), (72, 200)])
def test_its_right_side_goes_on_at_its_left(width: int, height: int) -> None:
    """Wider than a window, smaller than one, narrower and taller than one."""
    request = a_panorama(prompt="a yellow ring on a striped purple background", width=width, height=height, seed=3)
    (picture,) = drawn(request)
    (plain,) = drawn(request.model_copy(update={"panorama": False}))
    *inside, seam = contrasts(picture)
    assert seam <= 1.2 * max(inside)
    *inside, seam = contrasts(plain)
    assert seam > 2 * max(inside), "without it the sides don't fit"


def test_every_window_shows_what_was_asked_for() -> None:
    prompt = "a small green square on a white background"
    (picture,) = drawn(a_panorama(prompt=prompt, width=256, steps=12, seed=1, scheduler=SchedulerName.EULER_ANCESTRAL))
    assert picture.size == (256, 128)
    twice = Image.new("RGB", (512, 128))
    twice.paste(picture, (0, 0))
    twice.paste(picture, (256, 0))
    for left in range(0, 256, 64):
        finding = detect(twice.crop((left, 0, left + 128, 128)))
        assert (finding.shape, finding.colour, finding.background) == ("square", "green", "white"), left


def test_windows_of_different_panoramas_share_forwards_no_larger_than_a_picture_and_equal_themselves_alone() -> None:
    requests = [
        a_panorama(seed=1, scheduler=SchedulerName.EULER_ANCESTRAL),
        a_panorama(seed=2, width=192, self_attention=True, steps=5),
        a_request(seed=3, width=128, height=128, scheduler=DDIM),
    ]
    model = WatchedModel()
    pictures = drawn(*requests, model=model)
    windowed = [shapes for shapes in model.forwards if set(shapes) == {(16, 16)}]
    assert [(16, 40), (16, 24)] in model.forwards or [(16, 24), (16, 40)] in model.forwards
    assert max(len(shapes) for shapes in windowed) == 2, "the wider picture has the room of two windows"
    for picture, request in zip(pictures, requests, strict=True):
        (alone,) = drawn(request)
        assert greatest_difference(picture, alone) <= TOGETHER


@pytest.mark.parametrize("kind", [SD2_V, XL])
def test_panoramas_of_other_families_share_forwards_too(kind: Kind) -> None:
    requests = [a_request(panorama=True, width=160), a_request(panorama=True, width=96, token_merging=True)]
    requests += [requests[0].model_copy(update={"seed": 2})]
    pictures = drawn(*requests, model=UnetModel("demo", parts_of(kind)))
    for picture, request in zip(pictures, requests, strict=True):
        assert greatest_difference(picture, draw_with(parts_of(kind), request)) <= TOGETHER


def test_a_preview_and_progress_are_those_of_the_whole_picture() -> None:
    studio = Studio({"demo": WatchedModel()})
    looks: list[Image.Image | None] = []
    asked = studio.ask(a_panorama(), on_step=lambda _: studio.loop.preview(0, looks.append))
    studio.draw()
    assert [progress.step for progress in asked.progress] == [1, 2, 3, 4]
    assert looks[0] is not None
    assert looks[0].width > 2 * looks[0].height


@pytest.mark.parametrize(
    ("trained", "size", "window"),
    [(64, (64, 128), (64, 64)), (96, (64, 128), (64, 96)), ([128, 96], (160, 48), (128, 48)), (None, (128, 128), (64, 64))],
)
def test_a_window_has_the_size_the_model_was_trained_at_but_no_more_than_the_picture(
    trained: object, size: tuple[int, int], window: tuple[int, int]
) -> None:
    unet = SimpleNamespace(config={"sample_size": trained})
    found = window_of(unet, latent_height=size[0], latent_width=size[1])
    assert (found.latent_height, found.latent_width) == window
