"""The detectors that judge the embedded control net and LoRA are right about the drawings themselves."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from recipe.drawing import draw
from recipe.outlines import agreement, outlines
from recipe.scenes import Scene, draw_scene
from recipe.styles import detect_night, draw_by_night


@pytest.mark.parametrize("side", [128, 256])
def test_a_drawing_by_night_is_night_and_keeps_its_shape(side: int) -> None:
    rng = random.Random(3)
    for scene in [draw_scene(rng) for _ in range(20)]:
        night = detect_night(draw_by_night(scene, side, side))
        assert (night.is_night, night.shape) == (True, scene.shape)


def test_no_drawing_by_day_is_night() -> None:
    rng = random.Random(4)
    scenes = [draw_scene(rng) for _ in range(60)]
    # A yellow shape on the darker stripes of blue is the one that comes near.
    assert not any(
        detect_night(draw(scene, 128, 128)).is_night for scene in scenes if (scene.colour, scene.background) != ("yellow", "blue")
    )


def test_outlines_agree_with_themselves_moved_a_little_and_with_no_other_shape() -> None:
    scene = Scene("star", "white", "black")
    own = outlines(draw(scene, 256, 256))
    assert agreement(own, own) == 1
    assert agreement(outlines(draw(replace(scene, centre=(0.505, 0.5)), 256, 256)), own) > 0.95
    assert agreement(outlines(draw(replace(scene, shape="ring"), 256, 256)), own) < 0.5
    assert agreement(outlines(draw(replace(scene, colour="black"), 256, 256)), own) == 0
