"""Many different requests at once: the drawing loop against diffusers one by one and in static batches; and who comes late.

All in this process: same weights, requests and threads.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdapi.catalog import EMBEDDED_ID, embedded_model_dir
from sdapi.domain.generation import SchedulerName, Txt2Img
from sdapi.domain.progress import Progress
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket

from .arithmetic import Arithmetic, arithmetic, peak_flop_per_s
from .percentiles import p50, p95
from .record import tell
from .server import BenchmarkFailed
from .stock_batches import draw_batch, static_batches
from .stock_pipeline import apart, running_loop, stock_pipeline
from .table import NOT_MEASURED, Table

_PICTURES = 16
_SIDES_PX = (128, 256)
_ROUNDS = 1
_STEPS = (10, 15, 20, 25)
_SAMPLERS = (
    SchedulerName.DPM_MULTISTEP,
    SchedulerName.DDIM,
    SchedulerName.EULER,
    SchedulerName.EULER_ANCESTRAL,
)
_GUIDANCES = (5.0, 7.5)
_COLOURS = ("red", "green", "yellow", "white")
_SHAPES = ("circle", "square", "triangle", "star")
_LONG_STEPS, _LATE_STEPS = 50, 10
_LATE_AFTER_STEPS = 5
_LATE_ROUNDS = 3


@dataclass(frozen=True)
class Drawn:
    """What one way of drawing gave."""

    images: list[Image.Image]
    seconds: list[float]
    """Of every request, from the moment when all were asked for."""
    useful_flop: float
    """What the pictures are in arithmetic; without what is computed in vain."""

    @property
    def useful_flop_per_s(self) -> float:
        """At which they were drawn."""
        return self.useful_flop / max(self.seconds)

    @property
    def per_second(self) -> float:
        """Pictures."""
        return len(self.images) / max(self.seconds)


@dataclass(frozen=True)
class LateComer:
    """A short request that came while a long one was being drawn."""

    alone_s: float
    late_s: float
    ended_first: bool


Ways = Mapping[str, Sequence[Drawn]]
"""Rounds of each way of drawing the same requests."""
_ONE_BY_ONE, _STATIC, _LOOP = "diffusers one by one", "diffusers, those alike together", "our loop"


def mixed(number: int, side_px: int) -> list[Txt2Img]:
    """Requests of eight kinds by steps, sampler and guidance; only those of one kind can be batched statically."""
    return [
        _request(
            seed,
            side_px,
            steps=_STEPS[seed % 4],
            scheduler=_SAMPLERS[(seed // 2) % 4],
            guidance_scale=_GUIDANCES[(seed // 4) % 2],
        )
        for seed in range(number)
    ]


def alike(number: int, side_px: int) -> list[Txt2Img]:
    """Requests that differ in prompts and seeds only: the best that static batches can hope for."""
    return [_request(seed, side_px, steps=_STEPS[1], scheduler=_SAMPLERS[0], guidance_scale=_GUIDANCES[1]) for seed in range(number)]


def _request(seed: int, side_px: int, **fields: Any) -> Txt2Img:
    prompt = f"a {_COLOURS[seed % 4]} {_SHAPES[(seed // 4) % 4]} on a blue background"
    return Txt2Img(checkpoint=EMBEDDED_ID, prompt=prompt, width=side_px, height=side_px, seed=seed, **fields)


def compare(requests: Sequence[Txt2Img], rounds: int) -> Ways:
    """Draw them every way in turns, with the embedded model in float32."""
    ways: dict[str, list[Drawn]] = {_ONE_BY_ONE: [], _STATIC: [], _LOOP: []}
    pipeline = apart(lambda: stock_pipeline(_folder(), _device()))
    one_by_one, alike_together = [[place] for place in range(len(requests))], static_batches(requests)
    warm_up = [request.model_copy(update={"steps": 2}) for request in requests]
    apart(lambda: [_in_batches(pipeline, warm_up, batches) for batches in (one_by_one, alike_together)])
    for _ in range(rounds):
        ways[_ONE_BY_ONE].append(apart(lambda: _in_batches(pipeline, requests, one_by_one)))
        ways[_STATIC].append(apart(lambda: _in_batches(pipeline, requests, alike_together)))
        with running_loop(_folder(), _device(), len(requests)) as loop:
            _together(loop, warm_up)
            ways[_LOOP].append(_together(loop, requests))
    return ways


def _folder() -> Path:
    folder = embedded_model_dir()
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    return folder


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _in_batches(pipeline: Any, requests: Sequence[Txt2Img], batches: Sequence[Sequence[int]]) -> Drawn:
    images: dict[int, Image.Image] = {}
    seconds: dict[int, float] = {}
    started = time.perf_counter()
    for places in batches:
        drawn = draw_batch(pipeline, [requests[place] for place in places])
        images |= dict(zip(places, drawn, strict=True))
        seconds |= dict.fromkeys(places, time.perf_counter() - started)
    order = range(len(requests))
    return Drawn([images[place] for place in order], [seconds[place] for place in order], _flop(requests))


class Asked:
    """A request that was handed to the loop."""

    def __init__(self, loop: DrawingLoop, number: int, request: Txt2Img) -> None:
        self.started = time.perf_counter()
        self.ended = 0.0
        self.step_done = threading.Event()
        """Set when it has made a few steps."""
        self._result: Future[Result] = Future()
        loop.submit(Ticket(number, request, None, threading.Event(), self._report, self._done))

    def picture(self) -> Image.Image:
        """Wait for it. Raises BenchmarkFailed where there is none."""
        result = self._result.result()
        if not isinstance(result, Pictures):
            raise BenchmarkFailed(f"the loop drew nothing: {result}")
        return result.images[0]

    @property
    def seconds(self) -> float:
        """From the request to the picture."""
        return self.ended - self.started

    def _report(self, progress: Progress) -> None:
        if progress.step >= _LATE_AFTER_STEPS:
            self.step_done.set()

    def _done(self, result: Result) -> None:
        self.ended = time.perf_counter()
        self._result.set_result(result)


def _together(loop: DrawingLoop, requests: Sequence[Txt2Img]) -> Drawn:
    started = time.perf_counter()
    asked = [Asked(loop, number, request) for number, request in enumerate(requests)]
    images = [one.picture() for one in asked]
    return Drawn(images, [one.ended - started for one in asked], _flop(requests))


def _flop(requests: Sequence[Txt2Img]) -> float:
    """All are guided, and drawn by samplers that take one forward a step."""
    return sum(_arithmetic(request.width).picture(request.steps) for request in requests)


@cache
def _arithmetic(side_px: int) -> Arithmetic:
    return arithmetic(_folder(), side_px)


def late_comers(side_px: int, rounds: int) -> list[LateComer]:
    """Of every round: a short request alone, then the same while a long one is being drawn."""
    fields = {"scheduler": _SAMPLERS[0], "guidance_scale": 7.5}
    short = _request(1, side_px, steps=_LATE_STEPS, **fields)
    long = _request(2, side_px, steps=_LONG_STEPS, **fields)
    found = []
    with running_loop(_folder(), _device(), _PICTURES) as loop:
        Asked(loop, 0, short).picture()
        for _ in range(rounds):
            alone = Asked(loop, 1, short)
            alone.picture()
            running = Asked(loop, 2, long)
            running.step_done.wait()
            late = Asked(loop, 3, short)
            late.picture()
            running.picture()
            found.append(LateComer(alone.seconds, late.seconds, late.ended < running.ended))
    return found


def _difference(ways: Ways) -> int:
    """Of any channel of any pixel between diffusers' lone pictures and the loop's, 0..255."""
    pairs = zip(ways[_ONE_BY_ONE][-1].images, ways[_LOOP][-1].images, strict=True)
    return max(int(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max()) for one, other in pairs)


def measure() -> Table:
    """As a table."""
    return _table(*_figures(_PICTURES, _SIDES_PX, _ROUNDS), _peak())


def _figures(pictures: int, sides_px: Sequence[int], rounds: int) -> tuple[dict[str, Ways], dict[int, list[LateComer]]]:
    compared: dict[str, Ways] = {}
    for side_px in sides_px:
        compared[f"mixed, {side_px} px"] = compare(mixed(pictures, side_px), rounds)
    compared[f"alike, {sides_px[0]} px"] = compare(alike(pictures, sides_px[0]), rounds)
    return compared, {side_px: late_comers(side_px, _LATE_ROUNDS) for side_px in sides_px}


def _peak() -> float:
    """FLOP/s, in the format that all ways draw in."""
    return apart(lambda: peak_flop_per_s(torch.float32))


def _numbers(ways: Ways, way: str) -> dict[str, float]:
    rounds = ways[way]
    against = [one.per_second / alone.per_second for one, alone in zip(rounds, ways[_ONE_BY_ONE], strict=True)]
    return {
        "per_s": statistics.median(one.per_second for one in rounds),
        "p50_s": statistics.median(p50(one.seconds) for one in rounds),
        "p95_s": statistics.median(p95(one.seconds) for one in rounds),
        "useful_gflop_per_s": statistics.median(one.useful_flop_per_s for one in rounds) / 1e9,
        "against_one_by_one": statistics.median(against),
    }


def _table(compared: Mapping[str, Ways], late: Mapping[int, Sequence[LateComer]], peak: float) -> Table:
    rows: list[tuple[str, ...]] = []
    for name, ways in compared.items():
        for way in ways:
            found = _numbers(ways, way)
            difference = f"{_difference(ways)} of 255" if way == _LOOP else NOT_MEASURED
            share = f"{found['useful_gflop_per_s'] * 1e9 / peak:.0%}"
            rows.append((f"{name}: {way}", *(f"{value:.2f}" for value in found.values()), share, difference))
    lateness = "; ".join(
        f"at {side_px} px {statistics.median(one.late_s for one in found):.2f} s, "
        f"{statistics.median(one.late_s / one.alone_s for one in found):.2f} times what it takes alone, "
        f"ended first in {sum(one.ended_first for one in found)} of {len(found)}"
        for side_px, found in late.items()
    )
    first = next(iter(compared.values()))[_LOOP]
    figures = {
        "pictures": len(first[0].images),
        "matmul_peak_gflop_per_s": round(peak / 1e9, 1),
        "ways": {
            name: {way: {key: round(value, 3) for key, value in _numbers(ways, way).items()} for way in ways}
            for name, ways in compared.items()
        },
        "late_alone_s_late_s_first": {
            side_px: [[round(one.alone_s, 3), round(one.late_s, 3), one.ended_first] for one in found] for side_px, found in late.items()
        },
    }
    return Table(
        f"{len(first[0].images)} requests at once",
        ("pictures/s", "latency p50, s", "p95, s", "useful GFLOP/s", "pictures/s against one by one", "of the peak", "greatest difference"),
        tuple(rows),
        note=f"Medians of {len(first)} rounds in turns; latencies from the moment when all were asked for. Mixed: prompts, seeds, "
        f"{min(_STEPS)} to {max(_STEPS)} steps, {len(_SAMPLERS)} samplers, {len(_GUIDANCES)} guidance scales; alike: prompts and seeds "
        f"only. A request of {_LATE_STEPS} steps that comes while one of {_LONG_STEPS} is at step {_LATE_AFTER_STEPS}: {lateness}. "
        f"Useful is the arithmetic of steps and decodes; the peak, that of large float32 matrices, is {peak / 1e9:.0f} GFLOP/s here.",
        figures=figures,
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=_PICTURES, help="in flight at once")
    parser.add_argument("--sides-px", type=int, nargs="+", default=list(_SIDES_PX))
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    compared, late = _figures(options.pictures, options.sides_px, options.rounds)
    tell("throughput", _table(compared, late, _peak()))


if __name__ == "__main__":
    main()
