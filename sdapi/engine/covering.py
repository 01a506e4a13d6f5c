"""What clients get in place of a picture that is not to be seen. Pure Pillow."""

from __future__ import annotations

from typing import assert_never

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sdapi.domain.safety import SafetyType

_BLOCKS = 16
"""Along the longest side of what is pixelated."""
_BLUR_OF_SIDE = 1 / 12
"""Radius of the blur: what is smaller than that can't be made out any more."""
_BRIGHTNESS_BEHIND_TEXT = 0.35
_TEXTS = ("Sensitive content", "Sensitive\ncontent")
_TEXT_OF_WIDTH = 0.86
_TEXT_OF_HEIGHT = 0.6
_MEASURED_PX = 100.0
"""Size at which the text is measured."""


def covered(picture: Image.Image, how: SafetyType) -> Image.Image:
    """An RGB picture of the same size, which carries nothing of the original but what `how` leaves of it."""
    plain = Image.new("RGB", picture.size)
    match how:
        case "black":
            return plain
        case "blur":
            plain.paste(_blurred(picture))
        case "pixelate":
            plain.paste(_pixelated(picture))
        case "sensitive_content_text":
            plain.paste(_blurred(picture).point(lambda value: value * _BRIGHTNESS_BEHIND_TEXT))
            _write(plain)
        case _:
            assert_never(how)
    return plain


def _blurred(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").filter(ImageFilter.GaussianBlur(max(picture.size) * _BLUR_OF_SIDE))


def _pixelated(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    block_px = max(width, height) / _BLOCKS
    blocks = (max(1, round(width / block_px)), max(1, round(height / block_px)))
    return picture.convert("RGB").resize(blocks, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)


def _write(picture: Image.Image) -> None:
    """In the middle, in one line or two: whichever can be larger."""
    size_px, text = max((_fitting_px(text, picture.size), text) for text in _TEXTS)
    draw = ImageDraw.Draw(picture)
    middle = (picture.width / 2, picture.height / 2)
    draw.multiline_text(middle, text, fill="white", font=ImageFont.load_default(max(1.0, size_px)), anchor="mm", align="center")


def _fitting_px(text: str, size: tuple[int, int]) -> float:
    """Size of the font at which the text fits a picture."""
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), text, font=ImageFont.load_default(_MEASURED_PX), anchor="mm", align="center"
    )
    return _MEASURED_PX * min(size[0] * _TEXT_OF_WIDTH / (right - left), size[1] * _TEXT_OF_HEIGHT / (bottom - top))
