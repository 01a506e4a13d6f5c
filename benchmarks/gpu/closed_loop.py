"""Requests to the drawing loop as users send them: so many in flight all the time, or at random moments."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from PIL import Image

from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket

from ..percentiles import p50, p95
from ..server import BenchmarkFailed


@dataclass(frozen=True)
class Finished:
    """One request that was drawn; moments are of `time.perf_counter`."""

    number: int
    asked: float
    ended: float
    image: Image.Image

    @property
    def seconds(self) -> float:
        """From the request to the picture."""
        return self.ended - self.asked


@dataclass(frozen=True)
class Level:
    """What so many in flight gave."""

    in_flight: int
    per_s: float
    """Pictures."""
    p50_s: float
    p95_s: float
    pictures: int


def together(loop: DrawingLoop, requests: Sequence[Txt2Img]) -> list[Finished]:
    """All asked for at once, in the order of `requests`. Raises BenchmarkFailed."""
    done: SimpleQueue[tuple[int, float, Result]] = SimpleQueue()
    asked = [_submit(loop, number, request, done) for number, request in enumerate(requests)]
    return sorted((_finished(done, asked) for _ in requests), key=lambda one: one.number)


def sustained(draw: Callable[[int], None], done: SimpleQueue[tuple[int, float]], in_flight: int, seconds: float) -> Level:
    """Keep so many in flight for as long: `draw(number)` starts one, which puts its number and the moment of its end into `done`."""
    asked: list[float] = []

    def start() -> None:
        asked.append(time.perf_counter())
        draw(len(asked) - 1)

    for _ in range(in_flight):
        start()
    until = asked[0] + seconds
    ended: list[tuple[int, float]] = []
    while len(ended) < len(asked):
        ended.append(done.get())
        if time.perf_counter() < until:
            start()
    return _level(in_flight, asked, ended, until)


def _level(in_flight: int, asked: Sequence[float], ended: Sequence[tuple[int, float]], until: float) -> Level:
    """The first ones, which all began at once, and those that ended while fewer and fewer were in flight, tell nothing of the rate."""
    moments = sorted(moment for _, moment in ended)
    full = [moment for moment in moments if moment <= until]
    if len(full) > in_flight:
        per_s = (len(full) - in_flight) / (full[-1] - full[in_flight - 1])
    else:
        per_s = len(moments) / (moments[-1] - asked[0])
    steady = [moment - asked[number] for number, moment in ended if number >= in_flight]
    seconds = steady if len(steady) > 1 else [moment - asked[number] for number, moment in ended]
    return Level(in_flight, per_s, p50(seconds), p95(seconds) if len(seconds) > 1 else seconds[0], len(moments))


def sustained_by(loop: DrawingLoop, request_of: Callable[[int], Txt2Img], in_flight: int, seconds: float) -> Level:
    """The same with the loop. Raises BenchmarkFailed."""
    done: SimpleQueue[tuple[int, float]] = SimpleQueue()
    failures: list[Result] = []

    def draw(number: int) -> None:
        def ended(result: Result) -> None:
            if not isinstance(result, Pictures):
                failures.append(result)
            done.put((number, time.perf_counter()))

        loop.submit(Ticket(number, request_of(number), None, threading.Event(), lambda _: None, ended))

    level = sustained(draw, done, in_flight, seconds)
    if failures:
        raise BenchmarkFailed(f"the loop drew nothing: {failures[0]}")
    return level


def at_random(loop: DrawingLoop, requests: Sequence[Txt2Img], per_s: float) -> list[float]:
    """Seconds from when each was due, at the moments of a Poisson process that is the same in every run. Raises BenchmarkFailed."""
    done: SimpleQueue[tuple[int, float, Result]] = SimpleQueue()
    due = list(_moments(len(requests), per_s))
    began = time.perf_counter()
    asked = []
    for number, (moment, request) in enumerate(zip(due, requests, strict=True)):
        time.sleep(max(0.0, began + moment - time.perf_counter()))
        asked.append(_submit(loop, number, request, done))
    finished = sorted((_finished(done, asked) for _ in requests), key=lambda one: one.number)
    return [one.ended - began - moment for one, moment in zip(finished, due, strict=True)]


def _moments(number: int, per_s: float) -> Iterator[float]:
    chance = random.Random(7)
    moment = 0.0
    for _ in range(number):
        yield moment
        moment += chance.expovariate(per_s)


def lone_s(draw: Callable[[int], object], times: int) -> float:
    """Median seconds of one call after another; each gets a number of its own."""
    seconds = []
    for number in range(times):
        started = time.perf_counter()
        draw(number)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _submit(loop: DrawingLoop, number: int, request: Txt2Img, done: SimpleQueue[tuple[int, float, Result]]) -> float:
    asked = time.perf_counter()

    def ended(result: Result) -> None:
        done.put((number, time.perf_counter(), result))

    loop.submit(Ticket(number, request, None, threading.Event(), lambda _: None, ended))
    return asked


def _finished(done: SimpleQueue[tuple[int, float, Result]], asked: Sequence[float]) -> Finished:
    number, ended, result = done.get()
    if not isinstance(result, Pictures):
        raise BenchmarkFailed(f"the loop drew nothing: {result}")
    return Finished(number, asked[number], ended, result.images[0])
