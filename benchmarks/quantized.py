"""What weights in eight bits are worth on this device: memory, seconds a step, and how far their pictures are from those without.

With the embedded model, or with one of full size and random weights: `--full-size FOLDER --family sdxl` (see `benchmarks.full_size`).
Whether a model passed the gate is told in a column; one that didn't is measured as it is.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from sdapi.catalog import EMBEDDED_ID, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.families import UnetFamily
from sdapi.domain.generation import Txt2Img
from sdapi.domain.quantization import EightBits, Quantize
from sdapi.pipelines.scheduling.loop import DrawingLoop

from .formats import psnr_db
from .random_weights import checkpoint_folder
from .record import tell
from .server import BenchmarkFailed
from .stock_pipeline import running, timed
from .table import NOT_MEASURED, Table
from .throughput import Asked, mixed

_SIDES_PX = (256,)
_PICTURES = 8
_ROUNDS = 2
_WINDOW_PX = 8
"""Of what the eye compares at once, for the structural similarity."""
_LUMINANCE_FLOOR, _CONTRAST_FLOOR = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""Its usual constants: what is darker, or flatter, can hardly be told apart."""


@dataclass(frozen=True)
class Subject:
    """What is drawn with."""

    catalog: Catalog
    models_dir: Path
    checkpoint: str
    steps: int | None = None
    """Of every request; None: mixed."""


@dataclass(frozen=True)
class Drawn:
    """What one format gave at one size."""

    quantize: Quantize
    side_px: int
    is_quantized: bool
    """Whether it passed the gate."""
    model_bytes: int
    load_s: float
    step_s: list[float]
    """For one step of one picture, all pictures in flight at once; of each round."""
    psnr_db: list[float]
    """Of each picture against the one without."""
    ssim: list[float]


def embedded() -> Subject:
    """The model everybody has. Raises BenchmarkFailed."""
    folder = embedded_model_dir()
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    return Subject(Catalog(folder.parent, aliases={}, embedded=folder), folder.parent, EMBEDDED_ID)


def full_size(models_dir: Path, family: UnetFamily, steps: int) -> Subject:
    """One with random weights, which is written into the folder when it is first needed."""
    checkpoint = checkpoint_folder(models_dir, family).name
    return Subject(Catalog(models_dir, aliases={}, embedded=None), models_dir, checkpoint, steps)


def compare(
    subject: Subject, sides_px: Sequence[int], pictures: int, rounds: int, formats: Sequence[EightBits], dtype: str = "auto"
) -> list[Drawn]:
    """The same requests without and with each format, in turns. Raises BenchmarkFailed."""
    found: list[Drawn] = []
    for side_px in sides_px:
        changes = {"checkpoint": subject.checkpoint} | ({} if subject.steps is None else {"steps": subject.steps})
        requests = [request.model_copy(update=changes) for request in mixed(pictures, side_px)]
        steps = sum(request.steps for request in requests)
        ways: tuple[Quantize, ...] = ("off", *formats)
        seconds: dict[Quantize, list[float]] = {way: [] for way in ways}
        images: dict[Quantize, list[Image.Image]] = {}
        told: dict[Quantize, tuple[bool, int, float]] = {}
        for _ in range(rounds):
            for way in ways:
                options = DeviceOptions("auto", dtype, threads=0, max_batch_rows=pictures, model_cache_bytes=2**40, quantize=way)
                # Never two loops at a time: the threads of one would slow the other, though they do nothing.
                with running(subject.catalog, subject.models_dir, options) as loop:
                    _drawn(loop, [request.model_copy(update={"steps": 2}) for request in requests])
                    images[way], took_s = timed(partial(_drawn, loop, requests))
                    state = loop.models
                seconds[way].append(took_s / steps)
                told[way] = subject.checkpoint in state.quantized, state.resident_bytes, state.load_s[subject.checkpoint]
        for way in ways:
            pairs = list(zip(images["off"], images[way], strict=True))
            distances = [psnr_db(np.asarray(one, np.float64) - np.asarray(other, np.float64)) for one, other in pairs]
            found.append(Drawn(way, side_px, *told[way], seconds[way], distances, [ssim(one, other) for one, other in pairs]))
    return found


def _drawn(loop: DrawingLoop, requests: Sequence[Txt2Img]) -> list[Image.Image]:
    return [one.picture() for one in [Asked(loop, number, request) for number, request in enumerate(requests)]]


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Structural similarity of the brightness of two pictures of one size: 1 for the same, about 0 for strangers."""
    first, second = (np.asarray(picture.convert("L"), np.float64) for picture in (one, other))
    local = partial(uniform_filter, size=_WINDOW_PX)
    mean, mean_2 = local(first), local(second)
    spread, spread_2 = local(first**2) - mean**2, local(second**2) - mean_2**2
    together = local(first * second) - mean * mean_2
    alike = (2 * mean * mean_2 + _LUMINANCE_FLOOR) * (2 * together + _CONTRAST_FLOOR)
    return float(np.mean(alike / ((mean**2 + mean_2**2 + _LUMINANCE_FLOOR) * (spread + spread_2 + _CONTRAST_FLOOR))))


def measure() -> Table:
    """As a table."""
    return _table(compare(embedded(), _SIDES_PX, _PICTURES, _ROUNDS, get_args(EightBits)))


def _table(found: Sequence[Drawn]) -> Table:
    plain_s = {one.side_px: statistics.median(one.step_s) for one in found if one.quantize == "off"}
    rows: list[tuple[str, ...]] = []
    figures: dict[str, object] = {}
    for one in found:
        step_s = statistics.median(one.step_s)
        name, slower = f"{one.quantize}, {one.side_px} px", step_s / plain_s[one.side_px]
        distance = f"{statistics.median(one.psnr_db):.1f}", f"{min(one.psnr_db):.1f}", f"{min(one.ssim):.3f}"
        is_off = one.quantize == "off"
        passed = NOT_MEASURED if is_off else "yes" if one.is_quantized else "no"
        cells = f"{one.model_bytes / 1e6:.1f}", f"{one.load_s:.1f}", f"{step_s * 1000:.1f}", f"{slower:.2f}"
        rows.append((name, passed, *cells, *((NOT_MEASURED,) * 3 if is_off else distance)))
        figures[name] = {
            "is_quantized": one.is_quantized,
            "model_bytes": one.model_bytes,
            "load_s": round(one.load_s, 3),
            "step_s": round(step_s, 5),
            "against_off": round(slower, 3),
            "psnr_median_db": round(statistics.median(one.psnr_db), 2),
            "psnr_least_db": round(min(one.psnr_db), 2),
            "ssim_least": round(min(one.ssim), 4),
        }
    return Table(
        "Weights in eight bits",
        ("passed the gate", "model, MB", "load, s", "ms a step", "against off", "PSNR, dB, median", "PSNR, dB, least", "SSIM, least"),
        tuple(rows),
        note=f"{len(found[0].psnr_db)} requests at once, medians of {len(found[0].step_s)} rounds in turns; distances from the same "
        "pictures without. Loading includes the gate.",
        figures=figures,
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides-px", type=int, nargs="+", default=list(_SIDES_PX))
    parser.add_argument("--pictures", type=int, default=_PICTURES, help="in flight at once")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--formats", nargs="+", choices=get_args(EightBits), default=list(get_args(EightBits)))
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of everything else")
    parser.add_argument("--full-size", type=Path, help="folder of checkpoints with random weights, in the place of the embedded model")
    parser.add_argument("--family", choices=("sd1", "sdxl"), default="sdxl", help="of full size")
    parser.add_argument("--steps", type=int, default=4, help="of each picture, in full size")
    options = parser.parse_args()
    subject = embedded() if options.full_size is None else full_size(options.full_size, options.family, options.steps)
    tell("quantized", _table(compare(subject, options.sides_px, options.pictures, options.rounds, options.formats, options.dtype)))


if __name__ == "__main__":
    main()
