"""What users wait who come at random moments, against first come, first served, one at a time; and one who is quiet beside a busy one."""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import httpx

from sdapi.api_keys import ApiKeys
from sdapi.catalog import embedded_model_dir
from sdapi.db.migrations import upgrade
from sdapi.db.session import open_database
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.scheduling.loop import DrawingLoop

from .databases import new_sqlite
from .percentiles import p50, p95
from .record import tell
from .server import BenchmarkFailed, job_of, scratch_folder, serving, submit, wait_until
from .stock_pipeline import running_loop
from .table import NOT_MEASURED, Table
from .throughput import Asked, mixed

_SIDE_PX = 128
_LOADS = (0.3, 0.6, 0.9)
_ARRIVALS = 24
"""At each load."""
_SATURATING = 16
_HOT_JOBS = 40
_HOT_STEPS = 20
_LONE_ROUNDS = 5
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class AtLoad:
    """Seconds from the moment each request was due to its picture."""

    load: float
    """Of the pictures a second that the loop draws when it is full."""
    per_second: float
    shared: list[float]
    one_at_a_time: list[float]


@dataclass(frozen=True)
class Quiet:
    """What one request takes beside a user who has just asked for many."""

    alone_s: float
    beside_s: float
    all_s: float
    """Until all the busy user's are drawn: it would take longer than that, were the first to come the first served."""

    @property
    def wait(self) -> float:
        """Beyond what it takes alone, in units of that."""
        return self.beside_s / self.alone_s - 1


def at_random(arrivals: int) -> list[AtLoad]:
    """The same moments and requests both ways, at every load."""
    requests = mixed(max(arrivals, _SATURATING), _SIDE_PX)
    # Never two loops at a time: the threads of one would slow the other, though they do nothing.
    with _loop(_SATURATING) as loop:
        capacity = _capacity(loop, requests[:_SATURATING])
        due = {load: _moments(arrivals, load * capacity) for load in _LOADS}
        shared = {load: _as_they_come(loop, requests, due[load]) for load in _LOADS}
    with _loop(1) as loop:
        Asked(loop, 0, requests[0]).picture()
        one_at_a_time = {load: _one_at_a_time(loop, requests, due[load]) for load in _LOADS}
    return [AtLoad(load, load * capacity, shared[load], one_at_a_time[load]) for load in _LOADS]


@contextmanager
def _loop(rows: int) -> Iterator[DrawingLoop]:
    folder = embedded_model_dir()
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    with running_loop(folder, "auto", rows) as loop:
        yield loop


def _capacity(loop: DrawingLoop, requests: Sequence[Txt2Img]) -> float:
    """Pictures a second with many in flight; the second time, when torch has seen batches of all sizes."""
    per_second = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for one in [Asked(loop, number, request) for number, request in enumerate(requests)]:
            one.picture()
        per_second = len(requests) / (time.perf_counter() - started)
    return per_second


def _moments(number: int, per_second: float) -> list[float]:
    """A Poisson process: seconds from its beginning; the same pattern at every rate and in every run."""
    chance = random.Random(7)
    moments: list[float] = []
    for _ in range(number):
        moments.append((moments[-1] if moments else 0.0) + chance.expovariate(per_second))
    return moments


def _as_they_come(loop: DrawingLoop, requests: Sequence[Txt2Img], due: Sequence[float]) -> list[float]:
    began = time.perf_counter()
    asked: list[Asked] = []
    for moment, request in zip(due, requests, strict=False):
        _sleep_until(began + moment)
        asked.append(Asked(loop, len(asked), request))
    for one in asked:
        one.picture()
    return [one.ended - began - moment for one, moment in zip(asked, due, strict=True)]


def _one_at_a_time(loop: DrawingLoop, requests: Sequence[Txt2Img], due: Sequence[float]) -> list[float]:
    began = time.perf_counter()
    seconds: list[float] = []
    for moment, request in zip(due, requests, strict=False):
        _sleep_until(began + moment)  # already past where the ones before took longer
        one = Asked(loop, len(seconds), request)
        one.picture()
        seconds.append(one.ended - began - moment)
    return seconds


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))


def quiet_beside_hot(hot_jobs: int) -> Quiet:
    """On a real server, both with keys of their own."""
    with ExitStack() as opened:
        folder = opened.enter_context(scratch_folder())
        key = asyncio.run(_new_key(new_sqlite(folder)))
        server = opened.enter_context(serving(folder, sync_wait_s=0))
        hot = opened.enter_context(server.client())
        quiet = opened.enter_context(server.client())
        quiet.headers["X-API-KEY"] = key
        _drawn_s(quiet, 0)
        alone_s = statistics.median(_drawn_s(quiet, seed) for seed in range(1, _LONE_ROUNDS + 1))
        started = time.perf_counter()
        ids = [_submit(hot, 1000 + number) for number in range(hot_jobs)]
        beside_s = _drawn_s(quiet, 2000)
        wait_until(lambda: all(job_of(hot, job_id)["finished_at"] for job_id in ids), look_every_s=_LOOK_EVERY_S)
        return Quiet(alone_s, beside_s, time.perf_counter() - started)


async def _new_key(url: str) -> str:
    await upgrade(url)
    async with open_database(url, pool_size=1) as sessions:
        return (await ApiKeys(sessions, extra_key=None, now=partial(datetime.now, UTC)).create("quiet", "user"))[1]


def _submit(client: httpx.Client, seed: int) -> int:
    return int(submit(client, width=_SIDE_PX, height=_SIDE_PX, num_inference_steps=_HOT_STEPS, seed=seed)["id"])


def _drawn_s(client: httpx.Client, seed: int) -> float:
    started = time.perf_counter()
    job_id = _submit(client, seed)
    wait_until(lambda: job_of(client, job_id)["finished_at"] is not None, look_every_s=_LOOK_EVERY_S)
    return time.perf_counter() - started


def measure() -> Table:
    """As a table."""
    return _table(at_random(_ARRIVALS), quiet_beside_hot(_HOT_JOBS), _HOT_JOBS)


def _table(found: Sequence[AtLoad], quiet: Quiet, hot_jobs: int) -> Table:
    rows: list[tuple[str, ...]] = []
    for one in found:
        name = f"{one.load:.0%} load, {one.per_second:.2f} requests/s"
        for way, seconds in (("our loop", one.shared), ("first come, one at a time", one.one_at_a_time)):
            rows.append((f"{name}: {way}", f"{p50(seconds):.2f}", f"{p95(seconds):.2f}", NOT_MEASURED))
    wait = f"{quiet.wait:.1f} of its own time"
    rows.append((f"server: a quiet user's, {hot_jobs} of a busy one's before it", f"{quiet.beside_s:.2f}", NOT_MEASURED, wait))
    rows.append(("server: the same alone", f"{quiet.alone_s:.2f}", NOT_MEASURED, NOT_MEASURED))
    rows.append((f"server: all {hot_jobs} of the busy user's", f"{quiet.all_s:.2f}", NOT_MEASURED, NOT_MEASURED))
    return Table(
        "Requests at random moments",
        ("p50, s", "p95, s", "wait"),
        tuple(rows),
        note=f"Load: of the pictures a second that the loop draws with {_SATURATING} in flight. {len(found[0].shared)} arrivals of a "
        f"Poisson process, the same both ways, {_SIDE_PX} px, mixed as in benchmarks.throughput; seconds from when a request was due. "
        f"One at a time: the same loop, handed the next picture when the one before is done.",
        figures=_figures(found, quiet),
    )


def _figures(found: Sequence[AtLoad], quiet: Quiet) -> dict[str, object]:
    loads = {
        f"{one.load:.0%}": {
            "per_s": round(one.per_second, 3),
            "loop_p50_p95_s": [round(p50(one.shared), 3), round(p95(one.shared), 3)],
            "one_at_a_time_p50_p95_s": [round(p50(one.one_at_a_time), 3), round(p95(one.one_at_a_time), 3)],
        }
        for one in found
    }
    told = {"alone_s": quiet.alone_s, "beside_s": quiet.beside_s, "all_s": quiet.all_s, "wait_in_lone_times": quiet.wait}
    return {"loads": loads, "quiet": {name: round(value, 3) for name, value in told.items()}}


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrivals", type=int, default=_ARRIVALS, help="at each load")
    parser.add_argument("--hot-jobs", type=int, default=_HOT_JOBS)
    options = parser.parse_args()
    found, quiet = at_random(options.arrivals), quiet_beside_hot(options.hot_jobs)
    tell("arrivals", _table(found, quiet, options.hot_jobs))


if __name__ == "__main__":
    main()
