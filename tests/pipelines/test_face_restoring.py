from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdapi.catalog import Refused
from sdapi.pipelines.trained_maps.faces import FaceAnnotator
from sdapi.pipelines.upscalers.face_alignment import framed, paste_face, placed
from sdapi.pipelines.upscalers.faces import FaceRestorer, face_network_of

from .drawing import greatest_difference
from .face_onnx import FACE_PX, write_face_model
from .tiny_faces import FULL, Tensors, constant_face_tensors, face_forward, face_tensors

POINTS = np.array([(60, 50), (85, 55), (70, 68), (57, 78), (80, 83)], dtype=np.float32)
"""A face that leans to the right."""


def clouds(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(3)
    return Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def a_picture_with_faces(*corners: tuple[int, int], side: int = 128) -> Image.Image:
    """Green clouds; red cells are what the hand-written detector takes for faces."""
    picture = Image.merge("RGB", (Image.new("L", (side, side), 60), clouds(side, side).getchannel("G"), Image.new("L", (side, side), 90)))
    for corner in corners:
        picture.paste((255, 0, 0), (*corner, corner[0] + 8, corner[1] + 8))
    return picture


@pytest.mark.parametrize("wrapper", ["", "params_ema."])
def test_the_network_equals_its_equations(wrapper: str) -> None:
    tensors = face_tensors()
    network = face_network_of({wrapper + name: tensor for name, tensor in tensors.items()})
    assert network.shape.side_px == 64
    face = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        together, first, second = network(face), face_forward(tensors, face[:1]), face_forward(tensors, face[1:])

    assert first.std() > 0.05
    assert torch.allclose(together, torch.cat((first, second)), atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-2)


def test_the_published_file_is_known_whole() -> None:
    tensors = face_tensors(FULL, 512, make=lambda *shape: torch.empty(shape, device="meta"))
    network = face_network_of({f"params_ema.{name}": tensor for name, tensor in tensors.items()})

    assert (network.shape.side_px, network.shape.decoded[-1], network.shape.style) == (512, 64, 512)
    used = {name for name in tensors if not name.startswith(("toRGB.", "stylegan_decoder.style_mlp."))}
    assert set(network.state_dict()) == used
    assert tensors["final_linear.weight"].shape == (8192, 4096)


@pytest.mark.parametrize("change", ["a tensor missing", "one too many", "another kind"])
def test_another_network_is_refused(change: str) -> None:
    tensors: Tensors = face_tensors()
    match change:
        case "a tensor missing":
            del tensors["condition_shift.1.0.bias"]
        case "one too many":
            tensors["attention.weight"] = torch.zeros(2, 2)
        case _:
            tensors = {"body.0.weight": torch.zeros(8, 3, 3, 3)}
    with pytest.raises(Refused, match="GFPGAN"):
        face_network_of(tensors)


def test_a_face_is_turned_upright_into_the_frame() -> None:
    place = placed(POINTS, 512)
    linear = place.matrix[:, :2]
    assert np.allclose(linear @ linear.T, np.eye(2) * np.linalg.det(linear))
    found = POINTS @ linear.T + place.matrix[:, 2]
    assert abs(found[0, 1] - found[1, 1]) < 20
    assert np.abs(found - [(193, 240), (319, 240), (257, 314), (201, 371), (313, 371)]).max() < 30


def test_points_as_in_the_template_stay_where_they_are() -> None:
    template = np.array(
        [(192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935), (201.26117, 371.41043), (313.08905, 371.15118)]
    )
    assert np.allclose(placed(template.astype(np.float32), 512).matrix, [(1, 0, 0), (0, 1, 0)], atol=1e-4)


@pytest.mark.parametrize("points", [POINTS, POINTS * 4 - 120, POINTS - 50], ids=["small", "large", "over the edge"])
def test_an_unchanged_face_put_back_gives_the_picture_back(points: np.ndarray) -> None:
    picture = clouds(200, 180)
    place = placed(points, 512)
    back = picture.copy()
    paste_face(back, framed(picture, place), place, (1.0, 1.0))
    assert greatest_difference(back, picture) <= 2


def test_a_face_is_put_back_at_the_pictures_new_size() -> None:
    picture, place = clouds(200, 180), placed(POINTS, 512)
    large = picture.resize((400, 540), Image.Resampling.BICUBIC)
    back = large.copy()
    paste_face(back, framed(picture, place), place, (2.0, 3.0))
    assert greatest_difference(back, large) <= 6


def a_restorer(tmp_path: Path, colour: tuple[float, float, float] = (-1.0, -1.0, 1.0), side: int = 128) -> FaceRestorer:
    finder = FaceAnnotator(write_face_model(tmp_path / "faces.onnx", width=side, height=side))
    return FaceRestorer(face_network_of(constant_face_tensors(colour)), finder)


def test_faces_change_and_the_rest_does_not(tmp_path: Path) -> None:
    restorer, picture = a_restorer(tmp_path), a_picture_with_faces((40, 40), (96, 80))
    row = restorer.begin(picture)
    assert row.steps == 2
    while not row.sampler.finished:
        restorer.advance(row, restorer.predict([row])[0])
    enlarged = picture.resize((256, 256), Image.Resampling.NEAREST)
    plain = enlarged.copy()
    row.lay_over(enlarged)

    pixels, before = np.asarray(enlarged), np.asarray(plain)
    for x, y in ((40, 40), (96, 80)):
        assert tuple(pixels[2 * y + 8, 2 * x + 8]) == (0, 0, 255)
    changed = np.argwhere((pixels != before).any(axis=2)) / 2
    distances = np.minimum(*(np.abs(changed - [y + 4, x + 4]).max(axis=1) for x, y in ((40, 40), (96, 80))))
    assert distances.max() < 2 * FACE_PX
    assert np.array_equal(pixels[:20, 200:], before[:20, 200:])


def test_a_picture_without_faces_takes_no_steps_for_them(tmp_path: Path) -> None:
    row = a_restorer(tmp_path).begin(a_picture_with_faces())
    assert row.sampler.finished
    enlarged = clouds(256, 256)
    row.lay_over(enlarged)
    assert greatest_difference(enlarged, clouds(256, 256)) == 0
