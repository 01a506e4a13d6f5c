"""What it costs when every picture is asked of another model: both in memory, and with room for one only, the other waiting on the host."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdapi.catalog import EMBEDDED_ID, Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.forwards.number_formats import number_formats
from sdapi.pipelines.loading.loader import load_checkpoint
from sdapi.pipelines.memory.passing_thread import PassingThread
from sdapi.pipelines.scheduling.loop import DrawingLoop

from .random_weights import checkpoint_folder
from .record import tell
from .server import BenchmarkFailed, scratch_folder
from .table import NOT_MEASURED, Table
from .throughput import Asked

_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae", "model_index.json", "sidecar.toml")
_SIDE_PX = 256
_STEPS = 20
_ROUNDS = 3
_PAIRS = 6
"""In each round, of a picture of another model than the one before and a picture of the same."""
_ROOM_FOR = 1.5
"""Models that the small budget holds."""
_IN_HOST_MEMORY = 4
"""Models that fit there: both of them, in blocks that are powers of two."""


@dataclass(frozen=True)
class Switching:
    """Seconds a picture took, one in flight."""

    both_in_memory: list[float] = field(default_factory=list)
    """Of another model than the picture before."""
    one_model: list[float] = field(default_factory=list)
    """Of the same, right after each of those."""
    room_for_one: list[float] = field(default_factory=list)
    """Of another model than the picture before, which has to leave."""
    stayed: list[float] = field(default_factory=list)
    """Of the same, right after each of those."""
    bare_load: list[float] = field(default_factory=list)
    """Only reading the checkpoint into memory, right after each of those."""
    returned: list[float] = field(default_factory=list)
    """Of another model than the picture before, which comes back from the host's memory as that one leaves for it; on CUDA only."""
    returned_stayed: list[float] = field(default_factory=list)
    """Of the same, right after each of those."""

    @property
    def share(self) -> float:
        """What switching between models in memory adds, of a picture's time."""
        return statistics.median(self.both_in_memory) / statistics.median(self.one_model) - 1

    @property
    def against_load(self) -> float:
        """What switching adds with room for one, against the bare load."""
        return _added(self.room_for_one, self.stayed) / statistics.median(self.bare_load)

    @property
    def by_host_against_load(self) -> float | None:
        """The same with the other model in the host's memory; None where that isn't measured."""
        return _added(self.returned, self.returned_stayed) / statistics.median(self.bare_load) if self.returned else None


def _added(switched: list[float], stayed: list[float]) -> float:
    return statistics.median(one - other for one, other in zip(switched, stayed, strict=True))


@dataclass(frozen=True)
class _Pair:
    """Two models of the same size, and where they lie."""

    catalog: Catalog
    models_dir: Path
    ids: tuple[str, str]


def switching(side_px: int, steps: int, rounds: int, full_size: Path | None = None, pairs: int = _PAIRS) -> Switching:
    """In this process, with the embedded model and a copy of it; or, in `full_size`, with SD 1.5 with random weights and a copy."""
    found = Switching()
    with ExitStack() as opened:
        pair = _embedded(opened.enter_context(scratch_folder())) if full_size is None else _full_size(full_size)
        model_bytes = _bare_load(pair)[1]
        for _ in range(rounds):
            # Never two loops at a time: the threads of one would slow the other, though they do nothing.
            with _running(pair, 2**40) as loop:
                for other, again in _drawn(loop, pair, side_px, steps, pairs):
                    found.both_in_memory.append(other)
                    found.one_model.append(again)
            with _running(pair, int(_ROOM_FOR * model_bytes)) as loop:
                for other, again in _drawn(loop, pair, side_px, steps, pairs):
                    found.room_for_one.append(other)
                    found.stayed.append(again)
                # Not between the pictures: the one after it would find the caches full of another model.
                found.bare_load.extend(_bare_load(pair)[0] for _ in range(pairs))
            if torch.cuda.is_available():
                with _running(pair, int(_ROOM_FOR * model_bytes), host_bytes=_IN_HOST_MEMORY * model_bytes) as loop:
                    for other, again in _drawn(loop, pair, side_px, steps, pairs):
                        found.returned.append(other)
                        found.returned_stayed.append(again)
    return found


def _embedded(models_dir: Path) -> _Pair:
    embedded = embedded_model_dir()
    if embedded is None:
        raise BenchmarkFailed("the embedded model is not there")
    copy = models_dir / "checkpoints" / f"{EMBEDDED_ID}-copy"
    for part in _PARTS:
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        if (embedded / part).is_dir():
            shutil.copytree(embedded / part, copy / part)
        else:
            shutil.copyfile(embedded / part, copy / part)
    return _Pair(Catalog(models_dir, aliases={}, embedded=embedded), models_dir, (EMBEDDED_ID, copy.name))


def _full_size(models_dir: Path) -> _Pair:
    folder = checkpoint_folder(models_dir, "sd1")
    copy = folder.with_name(f"{folder.name}-copy")
    if not copy.exists():
        shutil.copytree(folder, copy, copy_function=os.link)
    return _Pair(Catalog(models_dir, aliases={}, embedded=None), models_dir, (folder.name, copy.name))


def _bare_load(pair: _Pair) -> tuple[float, int]:
    """Seconds and bytes. On a thread of its own, as the loop does it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    formats = number_formats("auto", device)
    checkpoint = pair.catalog.get(pair.ids[1])

    def load() -> tuple[float, int]:
        started = time.perf_counter()
        parts = load_checkpoint(checkpoint, device=device, dtype=formats.predicting, vae_dtype=formats.pictures)
        return time.perf_counter() - started, parts.bytes

    thread = PassingThread("bare-load")
    found = thread.submit(load).result()
    thread.shutdown()
    return found


@contextmanager
def _running(pair: _Pair, budget_bytes: int, host_bytes: int = 0) -> Iterator[DrawingLoop]:
    options = DeviceOptions(
        "auto", "auto", threads=0, max_batch_rows=16, model_cache_bytes=budget_bytes, owns_process=True, host_cache_bytes=host_bytes
    )
    loop = open_loop(pair.catalog, Assets(pair.models_dir), options)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join()


def _drawn(loop: DrawingLoop, pair: _Pair, side_px: int, steps: int, pairs: int) -> Iterator[tuple[float, float]]:
    """Seconds of a picture of the model that was not drawn with last, and of another one of the same."""
    for model in pair.ids:
        _draw(loop, model, side_px, steps)
    for number in range(pairs):
        model = pair.ids[number % 2]
        yield _draw(loop, model, side_px, steps), _draw(loop, model, side_px, steps)


def _draw(loop: DrawingLoop, model: str, side_px: int, steps: int) -> float:
    prompt = "a red circle on a blue background"
    asked = Asked(loop, 1, Txt2Img(checkpoint=model, prompt=prompt, width=side_px, height=side_px, seed=1, steps=steps))
    asked.picture()
    return asked.seconds


def measure() -> Table:
    """As a table."""
    return table(switching(_SIDE_PX, _STEPS, _ROUNDS), _SIDE_PX, _STEPS, is_full_size=False)


def table(found: Switching, side_px: int, steps: int, *, is_full_size: bool) -> Table:
    """What was found."""
    medians = {name: statistics.median(seconds) for name, seconds in vars(found).items() if seconds}
    one, both, stayed, small, load = (
        f"{medians[name]:.3f}" for name in ("one_model", "both_in_memory", "stayed", "room_for_one", "bare_load")
    )
    by_host = found.by_host_against_load
    waiting: tuple[tuple[str, ...], ...] = ()
    if by_host is not None:
        waiting = (
            ("room for one, the other on the host: the same model as before", f"{medians['returned_stayed']:.3f}", NOT_MEASURED),
            ("room for one, the other on the host: the other one", f"{medians['returned']:.3f}", f"{by_host:.2f} bare loads"),
        )
    return Table(
        "Another model at every picture",
        ("median, s", "what switching adds"),
        (
            ("two in memory: the same model as before", one, NOT_MEASURED),
            ("two in memory: the other one", both, f"{found.share:+.1%} of a picture"),
            ("room for one: the same model as before", stayed, NOT_MEASURED),
            ("room for one: the other one", small, f"{found.against_load:.2f} bare loads"),
            ("bare load", load, NOT_MEASURED),
            *waiting,
        ),
        note=f"{side_px} px, {steps} steps, one in flight, medians of {len(found.one_model)} each, in turns; "
        f"{'SD 1.5 with random weights' if is_full_size else 'the embedded model'} and a copy of it.",
        figures={
            "median_s": {name: round(seconds, 4) for name, seconds in medians.items()},
            "switch_share": round(found.share, 4),
            "switch_by_bare_load": round(found.against_load, 3),
            "switch_from_host_by_bare_load": None if by_host is None else round(by_host, 3),
        },
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=_SIDE_PX)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument(
        "--full-size", type=Path, metavar="FOLDER", help="SD 1.5 with random weights, written into FOLDER/checkpoints, 2 GB"
    )
    parser.add_argument("--out", type=Path, help="a folder that gets the line of JSON, too")
    options = parser.parse_args()
    found = switching(options.side_px, options.steps, options.rounds, options.full_size)
    tell("switch", table(found, options.side_px, options.steps, is_full_size=options.full_size is not None), options.out)


if __name__ == "__main__":
    main()
