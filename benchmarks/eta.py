"""How far the `eta` of answers is from what it really takes: at a cold start, in a burst, and in a steady queue."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from .record import tell
from .server import BenchmarkFailed, job_of, scratch_folder, serving, submit, wait_until
from .table import Table

_JOBS: tuple[Mapping[str, int], ...] = tuple(
    {"width": side_px, "height": side_px, "num_inference_steps": steps, "seed": side_px + steps}
    for steps in (15, 20, 25)
    for side_px in (128, 256, 192, 128)
)
_COLD: tuple[Mapping[str, int], ...] = ({"width": 256, "height": 256, "num_inference_steps": 20, "seed": 1},)
_COLD_STARTS = 3
_BURSTS = 3
_LOAD = 0.7
"""Of the jobs a second that the last burst was drawn at."""
_STEADY_S = 100.0
_SETTLING_S = 30.0
"""Until a queue that began empty is like one that has run for long; what comes before is not counted."""
_LOOK_EVERY_S = 0.25
_NEGLIGIBLE_S = 0.5
"""A relative error says nothing about the last moments."""


@dataclass(frozen=True)
class _Promise:
    """An eta that was given, and when."""

    job_id: int
    at: datetime
    eta_s: float


@dataclass
class _Wave:
    """Jobs submitted one after another, from the first to the end of the last."""

    at_submission: list[_Promise] = field(default_factory=list)
    on_the_way: list[_Promise] = field(default_factory=list)
    finished: dict[int, datetime] = field(default_factory=dict)

    def submit(self, client: httpx.Client, fields: Mapping[str, object]) -> None:
        """Ask for one more."""
        answer = submit(client, **fields)
        self.at_submission.append(_Promise(answer["id"], datetime.now(UTC), answer.get("eta", 0.0)))

    def look(self, client: httpx.Client) -> bool:
        """Ask for every job that isn't done, and keep its eta; whether all are done."""
        for job_id in (promise.job_id for promise in self.at_submission if promise.job_id not in self.finished):
            job = job_of(client, job_id)
            if job["finished_at"] is None:
                self.on_the_way.append(_Promise(job_id, datetime.now(UTC), job["eta"]))
            else:
                self.finished[job_id] = datetime.fromisoformat(job["finished_at"])
        return len(self.finished) == len(self.at_submission)

    @property
    def span_s(self) -> float:
        """From the first request to the last picture."""
        return (max(self.finished.values()) - min(promise.at for promise in self.at_submission)).total_seconds()


@dataclass(frozen=True)
class Accuracy:
    """How far etas were off, relative to the seconds it really took from then on."""

    scenario: str
    of: str
    median_error: float
    median_bias: float
    """Too long above zero, too short below."""
    worst: float
    etas: int

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        return f"{self.scenario}, {self.of}", f"{self.median_error:.0%}", f"{self.median_bias:+.0%}", f"{self.worst:.0%}", str(self.etas)


def measure() -> Table:
    """All scenarios, as a table."""
    return _table(accuracies())


def accuracies() -> list[Accuracy]:
    """Cold starts on servers of their own, then bursts and a steady queue on one."""
    cold = [_cold_start() for _ in range(_COLD_STARTS)]
    with scratch_folder() as folder, serving(folder, sync_wait_s=0) as server, server.client() as client:
        _burst(client, _COLD)
        bursts = [_burst(client, _JOBS) for _ in range(_BURSTS)]
        steady = _steady_queue(client, every_s=bursts[-1].span_s / len(_JOBS) / _LOAD)
    return [
        *_both("cold start", cold),
        *_both("first burst", bursts[:1]),
        *_both("later bursts", bursts[1:]),
        *_both("steady queue", [steady], after_s=_SETTLING_S),
    ]


def _cold_start() -> _Wave:
    with scratch_folder() as folder, serving(folder, sync_wait_s=0) as server, server.client() as client:
        return _burst(client, _COLD)


def _burst(client: httpx.Client, jobs: Sequence[Mapping[str, int]]) -> _Wave:
    wave = _Wave()
    for fields in jobs:
        wave.submit(client, fields)
    wait_until(lambda: wave.look(client), look_every_s=_LOOK_EVERY_S)
    return wave


def _steady_queue(client: httpx.Client, *, every_s: float) -> _Wave:
    """Requests of all sizes at random moments, `every_s` apart on average, whatever becomes of those before."""
    wave = _Wave()
    began = time.monotonic()
    looked = began
    for due_s, fields in _stream(every_s):
        while (left_s := began + due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, max(0.0, looked + _LOOK_EVERY_S - time.monotonic())))
            if time.monotonic() - looked >= _LOOK_EVERY_S:
                looked = time.monotonic()
                wave.look(client)
        wave.submit(client, fields)
    wait_until(lambda: wave.look(client), look_every_s=_LOOK_EVERY_S)
    return wave


def _stream(every_s: float) -> Iterator[tuple[float, Mapping[str, int]]]:
    """When to ask for what; the same at every run."""
    chance = random.Random(7)
    due_s = chance.expovariate(1 / every_s)
    while due_s < _STEADY_S:
        yield due_s, {**chance.choice(_JOBS), "seed": chance.randrange(2**31)}
        due_s += chance.expovariate(1 / every_s)


def _both(scenario: str, waves: Sequence[_Wave], *, after_s: float = 0.0) -> list[Accuracy]:
    first = _accuracy(scenario, "first answer", [(wave, wave.at_submission) for wave in waves], after_s)
    return [first, _accuracy(scenario, "on the way", [(wave, wave.on_the_way) for wave in waves], after_s)]


def _accuracy(scenario: str, of: str, told: Sequence[tuple[_Wave, Sequence[_Promise]]], after_s: float) -> Accuracy:
    errors: list[float] = []
    for wave, promises in told:
        began = wave.at_submission[0].at
        for promise in promises:
            real_s = (wave.finished[promise.job_id] - promise.at).total_seconds()
            if real_s > _NEGLIGIBLE_S and (promise.at - began).total_seconds() >= after_s:
                errors.append((promise.eta_s - real_s) / real_s)
    if not errors:
        raise BenchmarkFailed(f"{scenario}: all jobs were done within {_NEGLIGIBLE_S} s")
    sizes = [abs(error) for error in errors]
    return Accuracy(scenario, of, statistics.median(sizes), statistics.median(errors), max(sizes), len(errors))


def _table(found: Sequence[Accuracy]) -> Table:
    return Table(
        "eta against what it really took",
        ("median error", "median too long (+) or short (-)", "worst", "etas"),
        tuple(accuracy.cells() for accuracy in found),
        note=f"Relative to the seconds it took from that answer on; where that was over {_NEGLIGIBLE_S} s. Cold start: the first request "
        f"of a new process, {_COLD_STARTS} times. Burst: {len(_JOBS)} requests at once. Steady queue: {_STEADY_S:.0f} s of requests at "
        f"random moments, {_LOAD:.0%} as many a second as the burst before was drawn at; the first {_SETTLING_S:.0f} s are not counted. "
        f"Load of the machine over the last minute, server included: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        figures={f"{one.scenario}, {one.of}": {"median_error": round(one.median_error, 3), "etas": one.etas} for one in found},
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    tell("eta", measure())


if __name__ == "__main__":
    main()
