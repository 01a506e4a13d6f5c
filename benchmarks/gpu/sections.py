"""What is measured of one model in one process: ours and diffusers' own pipeline, with the same weights in memory twice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.forwards.number_formats import number_formats
from sdapi.pipelines.scheduling.loop import DrawingLoop

from ..arithmetic import Arithmetic
from ..percentiles import p50, p95
from ..stock_batches import draw_batch
from ..stock_pipeline import stock_pipeline
from ..table import NOT_MEASURED, Table
from .closed_loop import Level, at_random, lone_s, sustained_by, together
from .forwards import forwards_table
from .kernels import profiled
from .pages import Pages
from .subjects import Subject, drawing, embedded

_LONE_TIMES = 3
_COMPARED = 4
_SHOWN = 12
"""Kernels in the report; the file has more."""
_FAR_SEEDS = 10_000


@dataclass(frozen=True)
class Bench:
    """Everything that a section needs."""

    subject: Subject
    pipeline: Any
    """diffusers', with the format that the loop draws in."""
    loop: DrawingLoop
    pages: Pages
    arithmetic: Arithmetic
    peak_flop_per_s: float
    left_s: Callable[[], float]
    """Until this process will be ended."""

    def add(self, section: str, table: Table) -> None:
        """Under the model's name."""
        self.pages.add(f"gpu {self.subject.family} {section}", table)

    def stock(self, requests: list[Txt2Img]) -> None:
        """diffusers' own pipeline draws them in one call."""
        draw_batch(self.pipeline, requests)

    def ours(self, requests: list[Txt2Img]) -> None:
        """The loop draws them together."""
        together(self.loop, requests)


def lone(bench: Bench) -> None:
    """One picture at a time: how long it takes, and a step of it."""
    subject = bench.subject
    half = max(1, subject.steps // 2)
    ways: dict[str, Callable[[list[Txt2Img]], None]] = {"diffusers' own pipeline": bench.stock, "our loop": bench.ours}
    found: dict[str, tuple[float, float]] = {}
    for name, draw in ways.items():
        draw(subject.requests(1))
        whole_s = lone_s(lambda number, draw=draw: draw(subject.requests(1, first_seed=number)), _LONE_TIMES)  # type: ignore[misc]
        half_s = lone_s(lambda number, draw=draw: draw(subject.requests(1, first_seed=number, steps=half)), _LONE_TIMES)  # type: ignore[misc]
        found[name] = whole_s, (whole_s - half_s) / (subject.steps - half)
    stock_s = next(iter(found.values()))[0]
    bench.add(
        "lone",
        Table(
            f"{subject.name}: one at a time",
            ("picture, s", "step, ms", "times as fast", "useful TFLOP/s", "of the peak"),
            tuple(
                (name, f"{whole_s:.3f}", f"{step_s * 1000:.2f}", f"{stock_s / whole_s:.2f}", *_useful(bench, 1 / whole_s))
                for name, (whole_s, step_s) in found.items()
            ),
            note=f"Medians of {_LONE_TIMES}. A step: what the second half of the steps adds, divided by them.",
        ),
    )


def in_flight(bench: Bench) -> None:
    """Pictures a second and latencies with so many in flight all the time, against static batches of as many."""
    subject, targets = bench.subject, bench.subject.targets
    rows: list[tuple[str, ...]] = []
    skipped: list[int] = []
    for number in subject.in_flight:
        if bench.left_s() < 2 * (subject.warm_s + subject.window_s):
            skipped.append(number)
            continue
        sustained_by(bench.loop, lambda seed: subject.request(_FAR_SEEDS + seed), number, subject.warm_s)
        ours = sustained_by(bench.loop, subject.request, number, subject.window_s)
        is_targeted = number == targets.at_in_flight and targets.pictures_per_s is not None
        rows.append((f"our loop, {number} in flight", *_cells(bench, ours), _verdict(subject, ours) if is_targeted else NOT_MEASURED))
        rows.append((f"diffusers, static batches of {number}", *_cells(bench, _static(bench, number)), NOT_MEASURED))
    note = (
        f"A request follows each that ends, for {subject.window_s:g} s after {subject.warm_s:g} s that don't count. A static batch begins "
    )
    note += "when the one before has ended, with prompts that are all there by then: its latency is that of the batch."
    if skipped:
        note += f" Time ran short for {', '.join(map(str, skipped))} in flight."
    columns = ("pictures/s", "p50, s", "p95, s", "useful TFLOP/s", "of the peak", "target")
    bench.add("in flight", Table(f"{subject.name}: many in flight", columns, tuple(rows), note=note))


def _static(bench: Bench, number: int) -> Level:
    bench.stock(bench.subject.requests(number))
    seconds = lone_s(lambda turn: bench.stock(bench.subject.requests(number, first_seed=turn * number)), 2)
    return Level(number, number / seconds, seconds, seconds, number)


def arrivals(bench: Bench) -> None:
    """Requests at random moments, as users send them."""
    subject, target_s = bench.subject, bench.subject.targets.mean_s
    if not subject.arrivals:
        return
    bench.ours(subject.requests(2))
    seconds = at_random(bench.loop, subject.requests(subject.arrivals), subject.arrivals_per_s)
    mean_s = statistics.mean(seconds)
    verdict = NOT_MEASURED if target_s is None else f"mean < {target_s:g} s: {_met(is_met=mean_s < target_s)}"
    bench.add(
        "arrivals",
        Table(
            f"{subject.name}: requests at random moments",
            ("mean, s", "p50, s", "p95, s", "target"),
            (
                (
                    f"our loop, {subject.arrivals_per_s:g} a second",
                    f"{mean_s:.2f}",
                    f"{p50(seconds):.2f}",
                    f"{p95(seconds):.2f}",
                    verdict,
                ),
            ),
            note=f"{subject.arrivals} arrivals of a Poisson process.",
        ),
    )


def difference(bench: Bench) -> None:
    """How far pictures drawn together are from the same drawn alone, and from diffusers'."""
    subject = bench.subject
    rows = _apart(subject, bench.loop, bench.pipeline)
    bench.add("difference", Table(f"{subject.name}: differences of 255", _APART, tuple(rows), note=_APART_NOTE))


def embedded_difference(bench: Bench) -> None:
    """The same with weights that were trained, in every format: what random ones draw has little in it."""
    if bench.subject.family != "sd1":
        return
    small = embedded("sd1")
    if not bench.subject.is_embedded:
        small = replace(small, side_px=256, steps=20)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[tuple[str, ...]] = []
    for name in ("float32", "auto"):
        dtype = number_formats(name, device).predicting
        pipeline = stock_pipeline(small.folder, device.type, dtype)
        with drawing(small, name) as loop:
            rows += [(f"{str(dtype).removeprefix('torch.')}: {what}", *cells) for what, *cells in _apart(small, loop, pipeline)]
    title = f"The embedded model, {small.side_px} px, {small.steps} steps: differences of 255"
    bench.add("embedded difference", Table(title, _APART, tuple(rows), note=_APART_NOTE))


_APART = ("mean", "99.9 % within", "greatest", "spread of the pictures")
_APART_NOTE = f"{_COMPARED} pictures. Spread: the standard deviation of their own values; where it is small, there was little to differ in."


def _apart(subject: Subject, loop: DrawingLoop, pipeline: Any) -> Iterator[tuple[str, ...]]:
    requests = subject.requests(_COMPARED)
    joint = np.stack([np.asarray(one.image, np.float64) for one in together(loop, requests)])
    others = {
        "alone": [together(loop, [request])[0].image for request in requests],
        "diffusers' own pipeline, alone": [draw_batch(pipeline, [request])[0] for request in requests],
    }
    for name, pictures in others.items():
        apart = np.abs(joint - np.stack([np.asarray(one, np.float64) for one in pictures]))
        figures = f"{apart.mean():.3f}", f"{np.quantile(apart, 0.999):.0f}", f"{apart.max():.0f}", f"{joint.std():.1f}"
        yield f"together against {name}", *figures


def kernels(bench: Bench) -> None:
    """Where the device's time goes."""
    subject = bench.subject
    number = subject.targets.at_in_flight or max(subject.in_flight)
    requests = subject.requests(number, steps=max(1, subject.steps // 2))
    bench.ours(requests)
    looked = profiled(lambda: bench.ours(requests))
    file = f"kernels-{subject.family}.txt"
    bench.pages.keep(file, looked.listing)
    total_s = sum(one.seconds for one in looked.kernels)
    rows = tuple(
        (one.name.replace("|", "/"), f"{one.seconds * 1000:.2f}", f"{one.seconds / total_s:.1%}", str(one.calls))
        for one in looked.kernels[:_SHOWN]
    )
    note = f"{number} pictures of half the steps, drawn together, {looked.wall_s:.2f} s, profiler included; the device was busy for "
    note += f"{looked.busy:.0%} of that. More in `{file}`."
    bench.add("kernels", Table(f"{subject.name}: where the time goes", ("ms", "share", "calls"), rows, note=note))


def forwards(bench: Bench) -> None:
    """What recording them saves, with what requests lay over the network too."""
    bench.add("forwards", forwards_table(bench.subject, bench.pipeline.unet))


SECTIONS: tuple[tuple[Callable[[Bench], None], float], ...] = (
    (lone, 10),
    (in_flight, 15),
    (arrivals, 30),
    (difference, 15),
    (embedded_difference, 25),
    (kernels, 20),
    (forwards, 25),
)
"""And how many seconds each should find left, to begin at all; a dry run needs fewer."""


def _cells(bench: Bench, level: Level) -> tuple[str, ...]:
    return f"{level.per_s:.2f}", f"{level.p50_s:.2f}", f"{level.p95_s:.2f}", *_useful(bench, level.per_s)


def _useful(bench: Bench, per_s: float) -> tuple[str, str]:
    useful = bench.arithmetic.picture(bench.subject.steps) * per_s
    return f"{useful / 1e12:.4g}", f"{useful / bench.peak_flop_per_s:.1%}"


def _verdict(subject: Subject, level: Level) -> str:
    return "; ".join(verdicts(subject, level.per_s, level.p50_s))


def verdicts(subject: Subject, per_s: float, p50_s: float) -> Iterator[str]:
    """Each target of the level, and whether it was met."""
    targets = subject.targets
    if targets.pictures_per_s is not None:
        yield f">= {targets.pictures_per_s:g}/s: {_met(is_met=per_s >= targets.pictures_per_s)}"
    if targets.p50_s is not None:
        yield f"p50 < {targets.p50_s:g} s: {_met(is_met=p50_s < targets.p50_s)}"


def _met(*, is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def clock(limit_s: float) -> Callable[[], float]:
    """Seconds left of so many from now on."""
    until = time.monotonic() + limit_s
    return lambda: until - time.monotonic()
