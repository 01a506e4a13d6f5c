"""What it costs when every picture is asked of another model: both in memory, and with room for one only."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sdapi.catalog import EMBEDDED_ID, Assets, Catalog, embedded_model_dir
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.device_host import DeviceOptions, open_loop
from sdapi.pipelines.loader import load_checkpoint
from sdapi.pipelines.loop import DrawingLoop

from .server import BenchmarkFailed, scratch_folder
from .table import NOT_MEASURED, Table
from .throughput import Asked

_OTHER_ID = "demo-copy"
_SIDE_PX = 256
_STEPS = 20
_SERIES = (EMBEDDED_ID, EMBEDDED_ID, _OTHER_ID, _OTHER_ID) * 3
"""Every second picture is one of the model before, so both kinds meet whatever else the machine does."""
_ROUNDS = 3
_ROOM_FOR = 1.5
"""Models that the small budget holds."""


@dataclass(frozen=True)
class Switching:
    """Seconds a picture took, one in flight, in turns."""

    one_model: list[float]
    """Of the model of the picture before."""
    both_in_memory: list[float]
    room_for_one: list[float]
    bare_load: list[float]
    """Only reading the checkpoint into memory."""

    @property
    def share(self) -> float:
        """What switching between models in memory adds, of a picture's time."""
        return statistics.median(self.both_in_memory) / statistics.median(self.one_model) - 1

    @property
    def against_load(self) -> float:
        """What switching adds with room for one, against the bare load."""
        return (statistics.median(self.room_for_one) - statistics.median(self.one_model)) / statistics.median(self.bare_load)


def switching(side_px: int, steps: int, rounds: int) -> Switching:
    """With the embedded model and a copy of it, in this process."""
    embedded = embedded_model_dir()
    if embedded is None:
        raise BenchmarkFailed("the embedded model is not there")
    found = Switching([], [], [], [])
    with ExitStack() as opened:
        models_dir = opened.enter_context(scratch_folder())
        parts = ("scheduler", "text_encoder", "tokenizer", "unet", "vae", "model_index.json", "sidecar.toml")
        other = models_dir / "checkpoints" / _OTHER_ID
        for part in parts:
            _copy(embedded / part, other / part)
        catalog = Catalog(models_dir, aliases={}, embedded=embedded)
        model_bytes = _bare_load(catalog)[1]
        large = opened.enter_context(_running(catalog, models_dir, 2**40))
        small = opened.enter_context(_running(catalog, models_dir, int(_ROOM_FOR * model_bytes)))
        for loop in (large, small):
            _draw(loop, _SERIES, side_px, 2)
        for _ in range(rounds):
            drawn = _draw(large, _SERIES, side_px, steps)
            found.both_in_memory.extend(drawn[0::2])
            found.one_model.extend(drawn[1::2])
            found.room_for_one.extend(_draw(small, _SERIES, side_px, steps)[0::2])
            found.bare_load.extend(_bare_load(catalog)[0] for _ in _SERIES[0::2])
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _bare_load(catalog: Catalog) -> tuple[float, int]:
    """Seconds and bytes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    parts = load_checkpoint(catalog.get(_OTHER_ID), device=device, dtype=torch.float32)
    return time.perf_counter() - started, parts.bytes


@contextmanager
def _running(catalog: Catalog, models_dir: Path, budget_bytes: int) -> Iterator[DrawingLoop]:
    options = DeviceOptions(device="auto", dtype="float32", threads=0, max_batch_rows=16, model_cache_bytes=budget_bytes)
    loop = open_loop(catalog, Assets(models_dir), options)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join()


def _draw(loop: DrawingLoop, models: Sequence[str], side_px: int, steps: int) -> list[float]:
    seconds = []
    for number, model in enumerate(models):
        prompt = "a red circle on a blue background"
        request = Txt2Img(checkpoint=model, prompt=prompt, width=side_px, height=side_px, seed=number, steps=steps)
        asked = Asked(loop, number, request)
        asked.picture()
        seconds.append(asked.seconds)
    return seconds


def measure() -> Table:
    """As a table."""
    return _table(switching(_SIDE_PX, _STEPS, _ROUNDS), _SIDE_PX, _STEPS)


def _table(found: Switching, side_px: int, steps: int) -> Table:
    one, both, small, load = (
        f"{statistics.median(seconds):.3f}" for seconds in (found.one_model, found.both_in_memory, found.room_for_one, found.bare_load)
    )
    return Table(
        "Another model at every picture",
        ("median, s", "what switching adds"),
        (
            ("one model", one, NOT_MEASURED),
            ("two in memory, in turns", both, f"{found.share:+.1%} of a picture"),
            ("two in turns, room for one", small, f"{found.against_load:.2f} bare loads"),
            ("bare load", load, NOT_MEASURED),
        ),
        note=f"{side_px} px, {steps} steps, one in flight, medians of {len(found.one_model)} pictures each, in turns; "
        "the embedded model and a copy of it.",
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=_SIDE_PX)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    found = switching(options.side_px, options.steps, options.rounds)
    print(_table(found, options.side_px, options.steps).markdown())
    medians = {name: round(statistics.median(seconds), 4) for name, seconds in vars(found).items()}
    print(json.dumps({"median_s": medians, "switch_share": round(found.share, 4), "switch_by_bare_load": round(found.against_load, 3)}))


if __name__ == "__main__":
    main()
