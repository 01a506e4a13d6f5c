"""What compiled forwards give on this machine: the embedded model's, as the server compiles them, against the network as it is written.

Not among the quick ones: each size is compiled for half a minute. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdapi.catalog import EMBEDDED_ID, Catalog, embedded_model_dir
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.compiling.compiler import Compiler, can_compile
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.number_formats import number_formats
from sdapi.pipelines.forwards.unet_forward import ForwardOptions
from sdapi.pipelines.loading.loader import load_checkpoint
from sdapi.pipelines.scheduling.row import Row

from .record import tell
from .server import BenchmarkFailed, scratch_folder
from .stock_pipeline import apart
from .table import Table

_SIDES_PX = (128, 256, 512)
_ROWS = 1
_TIMES = 60
_ASKED_FOR = 20
"""Forwards of a size until it is compiled."""
_COMPILES_WITHIN_S = 900.0


@dataclass(frozen=True)
class Compared:
    """One size."""

    side_px: int
    rows: int
    compile_s: float
    plain_s: float
    """Of a forward; medians."""
    compiled_s: float
    difference: float
    """Of anything predicted, as a share of the largest number."""


def measure(sides_px: Sequence[int] = _SIDES_PX, rows: int = _ROWS) -> Table:
    """As a table. Raises BenchmarkFailed."""
    if not can_compile():
        raise BenchmarkFailed("there is no C++ compiler")
    with scratch_folder() as folder:
        found = [apart(lambda side_px=side_px: compare(folder, side_px, rows)) for side_px in sides_px]  # type: ignore[misc]
    return _table(found)


def compare(folder: Path, side_px: int, rows: int) -> Compared:
    """On this thread. Compiled ones are kept in the folder. Raises BenchmarkFailed."""
    compiler = Compiler(folder)
    plain, compiled = _model(None), _model(compiler)
    drawn = plain.prepare(_request(side_px), None) * rows
    asked = compiled.prepare(_request(side_px), None) * rows
    began_s = time.perf_counter()
    for _ in range(_ASKED_FOR):
        compiled.predict(asked)
    compiler.wait(_COMPILES_WITHIN_S)
    compile_s = time.perf_counter() - began_s
    # The first of these opens it, and sees whether it says what the network says.
    difference = _difference(plain.predict(drawn), compiled.predict(asked))
    if not list(folder.glob("*.pt2")):
        raise BenchmarkFailed("nothing was compiled")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_TIMES):
        seconds[False].append(_seconds(plain, drawn))
        seconds[True].append(_seconds(compiled, asked))
    return Compared(side_px, rows, compile_s, statistics.median(seconds[False]), statistics.median(seconds[True]), difference)


def _model(compiler: Compiler | None) -> UnetModel:
    embedded = embedded_model_dir()
    if embedded is None:
        raise BenchmarkFailed("the embedded model is not there")
    device = torch.device("cpu")
    formats = number_formats("auto", device)
    checkpoint = Catalog(embedded.parent, aliases={}, embedded=embedded).get(EMBEDDED_ID)
    parts = load_checkpoint(checkpoint, device=device, dtype=formats.predicting, vae_dtype=formats.pictures)
    return UnetModel(EMBEDDED_ID, parts, forwarding=ForwardOptions(compiler=compiler))


def _request(side_px: int) -> Txt2Img:
    prompt = "a red circle on a blue background"
    return Txt2Img(checkpoint=EMBEDDED_ID, prompt=prompt, width=side_px, height=side_px, seed=1, steps=20)


def _seconds(model: UnetModel, rows: Sequence[Row]) -> float:
    started = time.perf_counter()
    model.predict(rows)
    return time.perf_counter() - started


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    first, second = torch.cat(list(one)), torch.cat(list(other))
    return float((first - second).abs().max() / first.abs().max())


def _table(found: Sequence[Compared]) -> Table:
    return Table(
        "Compiled forwards",
        ("as written, ms", "compiled, ms", "times as fast", "greatest difference", "compiled in, s"),
        tuple(
            (
                f"{one.side_px} px, rows: {one.rows}",
                f"{one.plain_s * 1000:.1f}",
                f"{one.compiled_s * 1000:.1f}",
                f"{one.plain_s / one.compiled_s:.2f}",
                f"{one.difference:.2g}",
                f"{one.compile_s:.0f}",
            )
            for one in found
        ),
        note=f"A forward with guidance, {_TIMES} of each in turns, medians; differences as a share of the largest number predicted. "
        "Compiled by a process of the lowest priority, while nothing else is done.",
        figures={f"{one.side_px} px": [round(one.plain_s, 5), round(one.compiled_s, 5), round(one.compile_s, 1)] for one in found},
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides-px", type=int, nargs="+", default=list(_SIDES_PX))
    parser.add_argument("--rows", type=int, default=_ROWS, help="pictures in a forward")
    options = parser.parse_args()
    tell("compiling", measure(options.sides_px, options.rows))


if __name__ == "__main__":
    main()
