"""Pictures become files that every reader takes for what was asked for, and that say how they were made where A1111 looks for it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, JpegImagePlugin

from sdapi.domain.generation import GENERATION_JSON
from sdapi.domain.picture_formats import LONGEST_SIDES_PX, PictureFormat
from sdapi.picture_encoding import encode_picture
from sdapi.settings import Settings

LOSSY: list[PictureFormat] = ["jpeg", "webp"]
TEXTS = ["a cat\nSteps: 20, Seed: 7", "größer, 猫 und 🐈", "", "no \0 NUL and no half \ud800 of a pair"]


def a_drawing(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Red beside blue: halved colours mix them where they meet."""
    picture = Image.new("RGB", size, "red")
    picture.paste("blue", (size[0] // 2 + 1, 0, *size))
    return picture


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8))


def reread(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def comment_of(data: bytes) -> str | None:
    """What the UserComment says, read as A1111 reads it; None where there is none."""
    comment = reread(data).getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if comment is None:
        return None
    assert comment[:8] == b"UNICODE\0"
    return str(comment[8:].decode("utf-16-be"))


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other.convert("RGB"), np.float64)).mean())


@pytest.mark.parametrize(("picture_format", "starts"), [("png", b"\x89PNG\r\n"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_the_file_is_what_was_asked_for(picture_format: PictureFormat, starts: bytes) -> None:
    data = encode_picture(a_drawing(), picture_format, quality=100)
    picture = reread(data)
    assert data.startswith(starts)
    assert (picture.format, picture.mode, picture.size) == (picture_format.upper(), "RGB", (96, 64))
    assert mean_difference(a_drawing(), picture) < 3


@pytest.mark.parametrize("picture_format", LOSSY)
def test_higher_quality_is_nearer_the_picture_and_larger(picture_format: PictureFormat) -> None:
    original = noise(128, 128).resize((256, 256), Image.Resampling.BICUBIC)
    files = [encode_picture(original, picture_format, quality=quality) for quality in (1, 20, 60, 95)]
    assert sorted(map(len, files)) == [len(data) for data in files]
    apart = [mean_difference(original, reread(data)) for data in files]
    assert sorted(apart, reverse=True) == apart


def test_png_is_exact_at_any_quality() -> None:
    assert encode_picture(noise(64, 64), "png", quality=1) == encode_picture(noise(64, 64), "png", quality=100)
    assert reread(encode_picture(noise(64, 64), "png", quality=1)).tobytes() == noise(64, 64).tobytes()


def test_a_jpeg_of_good_quality_keeps_colours_apart_where_they_meet() -> None:
    assert [JpegImagePlugin.get_sampling(reread(encode_picture(a_drawing(), "jpeg", quality=quality))) for quality in (49, 50)] == [2, 0]
    assert mean_difference(a_drawing(), reread(encode_picture(a_drawing(), "jpeg"))) < 2


@pytest.mark.parametrize("picture_format", LOSSY)
@pytest.mark.parametrize("text", TEXTS)
def test_the_parameters_are_where_a1111_looks_for_them(picture_format: PictureFormat, text: str) -> None:
    data = encode_picture(a_drawing(), picture_format, parameters=text)
    in_png = reread(encode_picture(a_drawing(), "png", parameters=text)).info["parameters"]
    assert comment_of(data) == in_png
    assert reread(data).tobytes() == reread(encode_picture(a_drawing(), picture_format)).tobytes()


@pytest.mark.parametrize("picture_format", LOSSY)
def test_the_comment_is_declared_as_the_standard_wants_it(picture_format: PictureFormat) -> None:
    # Pillow reads any kind; piexif, which A1111 reads with, fails over a comment that is said to be of bytes.
    data = encode_picture(a_drawing(), picture_format, parameters="a cat")
    place = data.index(struct.pack(">H", ExifTags.Base.UserComment))
    undefined, length = struct.unpack(">HI", data[place + 2 : place + 8])
    assert (undefined, length) == (7, 8 + 2 * len("a cat"))


@pytest.mark.parametrize("picture_format", LOSSY)
def test_without_parameters_nothing_is_said(picture_format: PictureFormat) -> None:
    data = encode_picture(a_drawing(), picture_format)
    assert comment_of(data) is None
    assert b"Exif" not in data


def test_parameters_too_long_for_a_jpeg_are_left_out_of_it_alone() -> None:
    fits, too_long = "x" * 32_000, "x" * 33_000
    assert comment_of(encode_picture(a_drawing(), "jpeg", parameters=fits)) == fits
    assert comment_of(encode_picture(a_drawing(), "jpeg", parameters=too_long)) is None
    assert comment_of(encode_picture(a_drawing(), "webp", parameters=too_long)) == too_long


@pytest.mark.parametrize("picture_format", ["png", "jpeg", "webp"])
def test_what_else_was_known_of_the_picture_is_not_written(picture_format: PictureFormat) -> None:
    picture = a_drawing()
    picture.info = {"comment": b"a secret", "icc_profile": b"a secret", "exif": b"Exif\0\0a secret", "xmp": b"a secret"}
    assert encode_picture(picture, picture_format) == encode_picture(a_drawing(), picture_format)


@pytest.mark.parametrize("picture_format", LOSSY)
@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_mode_becomes_plain_colours(picture_format: PictureFormat, mode: str) -> None:
    picture = reread(encode_picture(a_drawing().convert(mode), picture_format))
    assert (picture.mode, picture.size) == ("RGB", (96, 64))


@pytest.mark.parametrize("picture_format", LOSSY)
def test_the_longest_sides_can_be_written_and_no_longer_ones(picture_format: PictureFormat) -> None:
    longest_px = LONGEST_SIDES_PX[picture_format]
    assert reread(encode_picture(Image.new("RGB", (longest_px, 2)), picture_format)).size == (longest_px, 2)
    with pytest.raises((OSError, ValueError)):
        encode_picture(Image.new("RGB", (longest_px + 1, 2)), picture_format)


def test_the_largest_drawing_fits_into_every_format() -> None:
    Settings(_env_file=None, max_side_px=4096)
    with pytest.raises(ValueError, match="max_side_px"):
        Settings(_env_file=None, max_side_px=4097)
    assert min(LONGEST_SIDES_PX.values()) >= 3 * 4096


def test_requests_recorded_before_there_was_a_choice_are_drawn_as_png() -> None:
    recorded = (
        '{"kind": "txt2img", "checkpoint": "demo", "prompt": "a", "seed": 1}',
        '{"kind": "upscale", "init_image": "inputs/a.png", "width": 8, "height": 8, "upscaler": "x"}',
    )
    for request in map(GENERATION_JSON.validate_json, recorded):
        assert (request.output_format, request.output_quality) == ("png", 90)
