"""The detector is right about drawings, so that what it finds wrong in a generated picture is the model's error."""

from __future__ import annotations

import random

import pytest
from PIL import Image
from recipe.captions import caption, vocabulary
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import COLOURS, SHAPES, Scene, draw_scene


@pytest.mark.parametrize("side_px", [128, 256, 512])
def test_it_sees_everything_in_drawings_of_every_size(side_px: int) -> None:
    rng = random.Random(side_px)
    for _ in range(40 if side_px < 512 else 10):
        scene = draw_scene(rng, held_out=rng.random() < 0.5)
        found = detect(draw(scene, side_px, side_px))
        assert found.shows(scene), scene
        assert (found.size, found.position) == (scene.size, scene.position), scene


@pytest.mark.parametrize("shape", SHAPES)
def test_it_tells_every_shape_from_every_other(shape: str) -> None:
    scene = Scene(shape=shape, colour="red", background="white")
    assert detect(draw(scene, 128, 128)).shape == shape


def test_it_sees_no_shape_where_there_is_none() -> None:
    found = detect(Image.new("RGB", (128, 128), COLOURS["green"]))
    assert (found.background, found.shape, found.colour) == ("green", None, None)


def test_it_notices_a_wrong_colour_and_a_wrong_shape() -> None:
    picture = draw(Scene(shape="star", colour="red", background="white"), 128, 128)
    assert not detect(picture).shows(Scene(shape="star", colour="pink", background="white"))
    assert not detect(picture).shows(Scene(shape="heart", colour="red", background="white"))


def test_training_and_judging_never_share_a_combination() -> None:
    rng = random.Random(1)
    assert not any(draw_scene(rng).held_out for _ in range(500))
    assert all(draw_scene(rng, held_out=True).held_out for _ in range(100))


def test_every_word_of_a_caption_is_in_the_vocabulary() -> None:
    rng = random.Random(2)
    known = set(vocabulary())
    for _ in range(300):
        words = caption(draw_scene(rng), rng).replace(",", " ").replace("-", " ").split()
        assert set(words) <= known
