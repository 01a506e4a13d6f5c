"""What number formats are worth on this device: pictures a second, and how far their pictures are from those in float32."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from sdapi.catalog import embedded_model_dir
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.scheduling.loop import DrawingLoop

from .record import tell
from .server import BenchmarkFailed
from .stock_pipeline import running_loop, timed
from .table import NOT_MEASURED, Table
from .throughput import Asked, mixed

_EXACT = "float32"
_OTHERS = ("bfloat16",)
_SIDES_PX = (128, 256, 512)
_PICTURES = 16
_ROUNDS = 2
_SAME_DB = 99.0
"""Told of pictures that are the same, whose ratio has no end."""


@dataclass(frozen=True)
class Drawn:
    """What one format gave at one size."""

    format: str
    side_px: int
    pictures: int
    seconds: list[float]
    """For all pictures together, of each round."""
    mean_apart: float
    """Of all channels of all pixels from float32's, of 255."""
    psnr_db: list[float]
    """Of each picture against float32's."""

    @property
    def per_s(self) -> float:
        """Pictures."""
        return self.pictures / statistics.median(self.seconds)


def compare(sides_px: Sequence[int], pictures: int, rounds: int, others: Sequence[str]) -> list[Drawn]:
    """The same requests in all formats, in turns. Raises BenchmarkFailed."""
    folder = embedded_model_dir()
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    found: list[Drawn] = []
    formats = (_EXACT, *others)
    for side_px in sides_px:
        requests = mixed(pictures, side_px)
        images: dict[str, list[Image.Image]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in formats}
        for _ in range(rounds):
            for name in formats:
                # Never two loops at a time: the threads of one would slow the other, though they do nothing.
                with running_loop(folder, "auto", pictures, name) as loop:
                    _drawn(loop, [request.model_copy(update={"steps": 2}) for request in requests])
                    images[name], took_s = timed(partial(_drawn, loop, requests))
                seconds[name].append(took_s)
        found += [_against(images[_EXACT], images[name], name, side_px, seconds[name]) for name in formats]
    return found


def _drawn(loop: DrawingLoop, requests: Sequence[Txt2Img]) -> list[Image.Image]:
    return [one.picture() for one in [Asked(loop, number, request) for number, request in enumerate(requests)]]


def _against(exact: Sequence[Image.Image], images: Sequence[Image.Image], name: str, side_px: int, seconds: list[float]) -> Drawn:
    apart = [np.asarray(one, np.float64) - np.asarray(other, np.float64) for one, other in zip(exact, images, strict=True)]
    mean_apart = float(np.mean([np.abs(one).mean() for one in apart]))
    return Drawn(name, side_px, len(images), seconds, mean_apart, [psnr_db(one) for one in apart])


def psnr_db(apart: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Of a picture whose channels are so far from another's; 99 where there is no difference."""
    mean_square = float(np.mean(apart**2))
    return min(_SAME_DB, 10 * float(np.log10(255**2 / mean_square))) if mean_square else _SAME_DB


def measure() -> Table:
    """As a table."""
    return _table(compare(_SIDES_PX, _PICTURES, _ROUNDS, _OTHERS))


def _table(found: Sequence[Drawn]) -> Table:
    exact = {one.side_px: one.per_s for one in found if one.format == _EXACT}
    rows: list[tuple[str, ...]] = []
    for one in found:
        speed = f"{one.per_s:.2f}", f"{one.per_s / exact[one.side_px]:.2f}"
        apart = f"{one.mean_apart:.2f}", f"{statistics.median(one.psnr_db):.1f}", f"{min(one.psnr_db):.1f}"
        rows.append((f"{one.format}, {one.side_px} px", *speed, *((NOT_MEASURED,) * 3 if one.format == _EXACT else apart)))
    return Table(
        "Number formats",
        ("pictures/s", "against float32", "mean difference of 255", "PSNR, dB, median", "PSNR, dB, least"),
        tuple(rows),
        note=f"{found[0].pictures} requests at once, mixed as in benchmarks.throughput, medians of {len(found[0].seconds)} rounds in "
        "turns, with the embedded model; differences from the same pictures in float32.",
        figures={
            f"{one.format}, {one.side_px} px": {
                "per_s": round(one.per_s, 3),
                "against_float32": round(one.per_s / exact[one.side_px], 3),
                "mean_apart_of_255": round(one.mean_apart, 3),
                "psnr_median_db": round(statistics.median(one.psnr_db), 2),
                "psnr_least_db": round(min(one.psnr_db), 2),
            }
            for one in found
        },
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides-px", type=int, nargs="+", default=list(_SIDES_PX))
    parser.add_argument("--pictures", type=int, default=_PICTURES, help="in flight at once")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--formats", nargs="+", choices=("bfloat16", "float16"), default=list(_OTHERS), help="beside float32")
    options = parser.parse_args()
    tell("formats", _table(compare(options.sides_px, options.pictures, options.rounds, options.formats)))


if __name__ == "__main__":
    main()
