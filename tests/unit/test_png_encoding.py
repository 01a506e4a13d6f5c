from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from isal import isal_zlib
from PIL import Image, PngImagePlugin

from sdapi import png_encoding
from sdapi.png_encoding import encode_png

CHANCE = np.random.default_rng(7)
TEXTS = ["a cat\nSteps: 20", "größer", "eine Katze, 猫, 🐈", "", "a\tb\x7f", "long " * 40_000, "lang 猫 " * 20_000]
SIZES = [(1, 1), (1, 7), (7, 1), (8, 8), (13, 31), (255, 257), (64, 2_000), (50_000, 3)]
"""The last two take several bands: many rows, and rows longer than one."""


def noise(width: int, height: int, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return CHANCE.integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(width: int, height: int, mode: str, kind: str) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    match kind:
        case "noise":
            pixels = noise(width, height, channels)
        case "flat":
            pixels = np.full((height, width, channels), 201, np.uint8)
        case _:
            ramp = np.arange(height)[:, None, None] * 3 + np.arange(width)[None, :, None] + np.arange(channels) * 50
            pixels = ramp.astype(np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def reread(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and data of each; asserts what a strict reader would."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = [], 8
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        data = png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + data)
        found.append((kind, data))
        place += 12 + length
    assert place == len(png)
    return found


def by_pillow(image: Image.Image, text: str | None) -> bytes:
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text("parameters", text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, pnginfo=info)
    return buffer.getvalue()


@pytest.fixture(params=["fast", "pillow", "failing"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ISA-L, on a machine without it, and where it can't."""
    if request.param == "pillow":
        monkeypatch.setattr(png_encoding, "isal_zlib", None)
    elif request.param == "failing":
        monkeypatch.setattr(isal_zlib, "compressobj", refuse)


def refuse(*_: object, **__: object) -> None:
    deflate_error: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # declared as an instance
    raise deflate_error("refused")


@pytest.mark.parametrize("kind", ["noise", "flat", "ramp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_come_back_exactly(size: tuple[int, int], mode: str, kind: str) -> None:
    image = picture(*size, mode, kind)
    again = reread(encode_png(image, "a cat"))
    assert (again.mode, again.size) == (image.mode, image.size)
    assert again.tobytes() == image.tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_another_reader_sees_the_same_pixels(size: tuple[int, int]) -> None:
    image = picture(*size, "RGB", "noise")
    seen = cv2.imdecode(np.frombuffer(encode_png(image, "猫"), np.uint8), cv2.IMREAD_COLOR)
    assert seen is not None
    assert np.array_equal(seen[:, :, ::-1], np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I;16"])
@pytest.mark.usefixtures("either_way")
def test_other_modes_are_written_as_pillow_writes_them(mode: str) -> None:
    image = Image.new(mode, (9, 5), 1)
    if mode == "CMYK":
        with pytest.raises(OSError, match="CMYK"):
            encode_png(image)
    else:
        assert reread(encode_png(image)).tobytes() == image.tobytes()


def test_a_colour_that_means_transparent_still_does() -> None:
    image = picture(4, 4, "RGB", "ramp")
    image.info["transparency"] = (0, 50, 100)
    assert reread(encode_png(image)).convert("RGBA").getpixel((0, 0)) == (0, 50, 100, 0)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.usefixtures("either_way")
def test_the_text_comes_back_from_the_file_as_it_was(text: str) -> None:
    assert reread(encode_png(Image.new("RGB", (8, 8)), text)).info["parameters"] == text


@pytest.mark.parametrize(("text", "kept"), [("a\0b", "ab"), ("a\ud800b", "a?b"), ("\0", ""), ("猫\0\udfff", "猫?")])
@pytest.mark.usefixtures("either_way")
def test_what_a_text_chunk_cannot_hold_does_not_lose_the_picture(text: str, kept: str) -> None:
    assert reread(encode_png(Image.new("RGB", (8, 8)), text)).info["parameters"] == kept


@pytest.mark.parametrize("text", [None, *TEXTS], ids=range(len(TEXTS) + 1))
def test_all_chunks_but_the_pixels_are_those_that_pillow_writes_in_its_order(text: str | None) -> None:
    image = picture(33, 17, "RGB", "noise")
    ours, pillows = (chunks(encode(image, text)) for encode in (encode_png, by_pillow))
    assert [kind for kind, _ in ours] == [
        b"IHDR",
        *([] if text is None else [b"tEXt" if text.isascii() or text == "größer" else b"iTXt"]),
        b"IDAT",
        b"IEND",
    ]
    assert [chunk for chunk in ours if chunk[0] != b"IDAT"] == [chunk for chunk in pillows if chunk[0] != b"IDAT"]


@pytest.mark.usefixtures("either_way")
def test_without_parameters_the_file_tells_nothing() -> None:
    image = Image.new("RGB", (8, 8))
    image.info["icc_profile"] = b"from elsewhere"
    image.info["comment"] = "secret"
    assert reread(encode_png(image, None)).info == {}


def pictures_to_weigh() -> Iterator[Image.Image]:
    yield picture(256, 256, "RGB", "noise")
    yield picture(256, 256, "RGB", "ramp")
    shades = cv2.GaussianBlur(noise(256, 256, 3), (0, 0), 6).astype(np.int16)
    stretched = (shades - shades.min()) * 255 // (shades.max() - shades.min())
    yield Image.fromarray((stretched + CHANCE.integers(0, 3, stretched.shape)).clip(0, 255).astype(np.uint8))


def test_files_are_hardly_larger_than_pillows() -> None:
    for image in pictures_to_weigh():
        assert len(encode_png(image)) <= 1.3 * len(by_pillow(image, None)) + 2_000  # ramps take next to nothing both ways


def test_the_fast_way_is_the_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "save", refuse)
    assert chunks(encode_png(picture(16, 16, "RGB", "noise")))
