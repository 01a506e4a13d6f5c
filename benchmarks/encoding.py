"""How long finished pictures take to become files, and how large these are: PNG by Pillow and ours, JPEG and WebP."""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from sdapi.picture_encoding import encode_picture

from .record import tell
from .table import Table

_SIDES_PX = (512, 1024)
_ROUNDS = 9
_PILLOW_LEVEL = 1
"""The quickest that makes files smaller than the pixels."""
_ROUGHNESS = 1.6
"""By how much each octave of the photo-like picture is weaker than the one before; photos have about that."""
_GRAIN = 3.0
"""Of 255: what a sensor adds to it."""


@dataclass
class Encoded:
    """What one way of writing gave for one picture."""

    kilobytes: float
    seconds: list[float] = field(default_factory=list)

    @property
    def ms(self) -> float:
        """The median."""
        return 1000 * statistics.median(self.seconds)


def measure() -> Table:
    """As a table."""
    return _table(compare(_SIDES_PX, _ROUNDS), _ROUNDS)


def compare(sides_px: Sequence[int], rounds: int) -> dict[str, dict[str, Encoded]]:
    """By picture and way; on this thread, the ways in turns."""
    pictures = {f"{name}, {side_px} px": make(side_px) for side_px in sides_px for name, make in _PICTURES.items()}
    return {name: _encoded(picture, rounds) for name, picture in pictures.items()}


def _encoded(picture: Image.Image, rounds: int) -> dict[str, Encoded]:
    # The first of each way pays for what is imported and allocated.
    found = {name: Encoded(len(encode(picture)) / 1000) for name, encode in _WAYS.items()}
    for _ in range(rounds):
        for name, encode in _WAYS.items():
            started = time.perf_counter()
            encode(picture)
            found[name].seconds.append(time.perf_counter() - started)
    return found


def _by_pillow(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_PILLOW_LEVEL)
    return buffer.getvalue()


def drawing(side_px: int) -> Image.Image:
    """A drawing as the embedded model makes them: flat colours, with the last bits in motion that a decoder leaves."""
    flat = Image.new("RGB", (side_px, side_px), "navy")
    on_it = ImageDraw.Draw(flat)
    on_it.ellipse([side_px // 8, side_px // 8, side_px * 5 // 8, side_px * 5 // 8], fill="crimson")
    on_it.regular_polygon((side_px * 5 // 8, side_px * 5 // 8, side_px // 4), 3, rotation=10, fill="gold")
    restless = np.random.default_rng(3).integers(-2, 3, (side_px, side_px, 3))
    return Image.fromarray(np.clip(np.asarray(flat, np.int16) + restless, 0, 255).astype(np.uint8))


def photo_like(side_px: int) -> Image.Image:
    """Blurred noise of all scales, as many details as a photo, and grain."""
    chance = np.random.default_rng(4)
    light = np.full((side_px, side_px, 3), 128.0)
    for octave in range(1, int(np.log2(side_px))):
        cells = 2**octave
        for channel in range(3):
            noise = Image.fromarray(chance.standard_normal((cells, cells)).astype(np.float32))
            smooth = noise.resize((side_px, side_px), Image.Resampling.BICUBIC)
            light[:, :, channel] += 90 / _ROUGHNESS**octave * np.asarray(smooth, np.float64)
    light += chance.normal(0, _GRAIN, (side_px, side_px, 1))
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))


_PICTURES: Mapping[str, Callable[[int], Image.Image]] = {"drawing": drawing, "photo-like": photo_like}
_WAYS: Mapping[str, Callable[[Image.Image], bytes]] = {
    "PNG, Pillow": _by_pillow,
    "PNG, ours": partial(encode_picture, picture_format="png"),
    "JPEG 90": partial(encode_picture, picture_format="jpeg", quality=90),
    "WebP 90": partial(encode_picture, picture_format="webp", quality=90),
}


def _table(found: Mapping[str, Mapping[str, Encoded]], rounds: int) -> Table:
    return Table(
        "Files of pictures",
        tuple(f"{way}, {unit}" for way in _WAYS for unit in ("ms", "KB")),
        tuple(
            (name, *(cell for way in _WAYS for cell in (f"{ways[way].ms:.1f}", f"{ways[way].kilobytes:.0f}")))
            for name, ways in found.items()
        ),
        note=f"One thread, medians of {rounds} rounds in turns; Pillow's PNG at level {_PILLOW_LEVEL}.",
        figures={
            name: {way: {"ms": round(one.ms, 3), "kilobytes": round(one.kilobytes, 1)} for way, one in ways.items()}
            for name, ways in found.items()
        },
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides-px", type=int, nargs="+", default=list(_SIDES_PX))
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    tell("encoding", _table(compare(options.sides_px, options.rounds), options.rounds))


if __name__ == "__main__":
    main()
