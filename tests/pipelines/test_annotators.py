"""Control maps show what they are named for, the same way every time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from recipe.drawing import draw
from recipe.scenes import Scene

from sdapi.domain.control_maps import ControlMap, annotator_of, control_map_of
from sdapi.domain.errors import InvalidRequest
from sdapi.pipelines.control.annotators import Map, control_map

WEIGHTLESS = [kind for kind in ControlMap if kind not in ("hed", "depth", "normal", "segmentation", "openpose", "face_detector")]
LINES = (ControlMap.CANNY, ControlMap.SCRIBBLE, ControlMap.SOFTEDGE, ControlMap.LINEART)


def a_square() -> Image.Image:
    """Black, from 32 to 96, on white."""
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).rectangle((32, 32, 95, 95), fill="black")
    return picture


def a_scene() -> Image.Image:
    picture: Image.Image = draw(Scene(shape="star", colour="green", background="white"), 96, 64)
    return picture


def near_outline(of: Map) -> float:
    """Share of the map's light that lies within 8 px of the square's outline."""
    y, x = np.mgrid[0:128, 0:128]
    from_centre = np.maximum(np.abs(x - 63.5), np.abs(y - 63.5))
    return float(of.mean(axis=2)[np.abs(from_centre - 32) <= 8].sum() / of.mean(axis=2).sum())


@pytest.mark.parametrize("kind", [*WEIGHTLESS, None])
def test_a_map_has_the_pictures_size_and_is_the_same_every_time(kind: ControlMap | None) -> None:
    assert kind is None or annotator_of(kind, installed=()) is None
    first, second = (control_map(kind, a_scene(), seed=3) for _ in range(2))
    assert first.shape == (64, 96, 3)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", LINES)
def test_lines_lie_where_the_outline_is_on_black(kind: ControlMap) -> None:
    drawn = control_map(kind, a_square(), seed=0)
    assert near_outline(drawn) > 0.8
    assert float(np.median(drawn)) == 0
    assert drawn.max() > 0.4


@pytest.mark.parametrize("kind", [*LINES, ControlMap.MLSD])
def test_a_plain_picture_has_no_lines(kind: ControlMap) -> None:
    assert not control_map(kind, Image.new("RGB", (64, 64), "teal"), seed=0).any()


def test_mlsd_draws_straight_lines_and_leaves_curves_out() -> None:
    circle = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(circle).ellipse((54, 54, 74, 74), fill="black")
    straight = control_map(ControlMap.MLSD, a_square(), seed=0)
    assert near_outline(straight) > 0.99
    assert straight[:, :, 0].sum() > 4 * 55
    assert control_map(ControlMap.MLSD, circle, seed=0).sum() < straight.sum() / 5


def test_shuffle_depends_on_the_seed_and_keeps_the_colours() -> None:
    one, other = (control_map(ControlMap.SHUFFLE, a_scene(), seed=seed) for seed in (1, 2))
    assert not np.array_equal(one, other)
    colours = np.asarray(a_scene()).reshape(-1, 3) / 255
    assert np.abs(one.reshape(-1, 3)[:, None] - colours[None, ::7]).max(axis=2).min(axis=1).max() < 0.3


def test_tile_is_the_picture_without_its_detail() -> None:
    picture = np.asarray(a_scene()) / 255
    tile = control_map(ControlMap.TILE, a_scene(), seed=0)
    assert np.abs(tile - picture).mean() < 0.05
    assert np.abs(np.diff(tile, axis=1)).max() < np.abs(np.diff(picture, axis=1)).max()


def test_inpaint_marks_what_the_mask_shows_as_missing() -> None:
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (0, 0, 48, 64))
    drawn = control_map(ControlMap.INPAINT, a_scene(), seed=0, mask=mask)
    assert (drawn[:, :48] == -1).all()
    assert np.allclose(drawn[:, 48:], np.asarray(a_scene())[:, 48:] / 255)


@pytest.mark.parametrize("kind", [None, ControlMap.QRCODE, ControlMap.INPAINT])
def test_a_picture_that_is_a_map_already_stays_as_it_is(kind: ControlMap | None) -> None:
    assert np.allclose(control_map(kind, a_scene(), seed=0), np.asarray(a_scene()) / 255)


@pytest.mark.parametrize(
    ("spelt", "means"), [("canny", ControlMap.CANNY), (" Canny ", ControlMap.CANNY), ("aesthetic-controlnet", ControlMap.CANNY)]
)
def test_types_are_found_under_their_documented_names(spelt: str, means: ControlMap) -> None:
    assert control_map_of(spelt) is means


def test_a_type_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"'blobs'.*canny, scribble"):
        control_map_of("blobs")
