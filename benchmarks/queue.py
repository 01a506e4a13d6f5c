"""Whether a long history slows the queue: calls to servers with few, some and very many jobs in their table, in turns."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from .databases import fill, new_postgresql, new_sqlite, postgresql
from .percentiles import PERCENTILES
from .record import tell
from .server import BenchmarkFailed, job_of, scratch_folder, serving, submit, wait_until
from .table import NOT_MEASURED, Table

_JOBS = (10, 1_000, 100_000)
_BURST = 8
"""Requests at once: all but the first are recorded, and looked for, while others wait."""
_ROUNDS = 10
_FETCHES = 4
"""Of every job of a burst, while it waits or is drawn."""
_LISTS = 4
_WARM_UPS = 2
_LOOK_EVERY_S = 0.02


@dataclass
class Latencies:
    """Milliseconds of one server's answers, by call."""

    submit: list[float] = field(default_factory=list)
    fetch: list[float] = field(default_factory=list)
    list_own: list[float] = field(default_factory=list)

    def by_call(self) -> dict[str, list[float]]:
        """Under the names they have in the table."""
        return {"submit": self.submit, "fetch": self.fetch, "list own jobs": self.list_own}


@dataclass
class _Server:
    """One of the servers that take turns."""

    client: httpx.Client
    latencies: Latencies = field(default_factory=Latencies)
    seed: int = 0

    def burst(self) -> None:
        """Submit some, look for them and at the list, and wait until all are drawn."""
        ids = []
        for _ in range(_BURST):
            self.seed += 1
            with _timed(self.latencies.submit):
                answer = submit(self.client, width=64, height=64, num_inference_steps=1, seed=self.seed)
            ids.append(answer["id"])
        for job_id in ids * _FETCHES:
            with _timed(self.latencies.fetch):
                self.client.post("/sd/fetch", json={"id": job_id}).raise_for_status()
        for _ in range(_LISTS):
            with _timed(self.latencies.list_own):
                self.client.get("/jobs", params={"limit": _BURST}).raise_for_status()
        wait_until(lambda: all(job_of(self.client, job_id)["finished_at"] for job_id in ids), look_every_s=_LOOK_EVERY_S)


def measure(jobs: Sequence[int] = _JOBS, rounds: int = _ROUNDS) -> Table:
    """Both kinds of database, as a table."""
    return _table(jobs, *latencies(jobs, rounds))


def latencies(jobs: Sequence[int], rounds: int) -> tuple[dict[str, list[Latencies]], list[str]]:
    """Of every kind of database, for as many jobs as `jobs` says in turn; and why kinds could not be measured."""
    found = {"SQLite": _of_sqlite(jobs, rounds)}
    try:
        found["PostgreSQL"] = _of_postgresql(jobs, rounds)
    except BenchmarkFailed as error:
        print(f"PostgreSQL was NOT measured: {error}", file=sys.stderr, flush=True)
        return found, [f"PostgreSQL was not measured: {error}."]
    return found, []


def _of_sqlite(jobs: Sequence[int], rounds: int) -> list[Latencies]:
    with ExitStack() as opened:
        folders = [opened.enter_context(scratch_folder()) for _ in jobs]
        for folder, number in zip(folders, jobs, strict=True):
            asyncio.run(fill(new_sqlite(folder), number))
        return _in_turns(folders, rounds)


def _of_postgresql(jobs: Sequence[int], rounds: int) -> list[Latencies]:
    with ExitStack() as opened:
        server_url = opened.enter_context(postgresql())
        folders = [opened.enter_context(scratch_folder()) for _ in jobs]
        for folder, number in zip(folders, jobs, strict=True):
            url = opened.enter_context(new_postgresql(server_url))
            asyncio.run(fill(url, number))
            # A server reads the settings of the folder it is started in.
            (folder / ".env").write_text(f"SDAPI_DATABASE_URL={url}\n", encoding="utf-8")
        return _in_turns(folders, rounds)


def _in_turns(folders: Sequence[Path], rounds: int) -> list[Latencies]:
    """A server for each folder; what else the machine does hits all alike."""
    with ExitStack() as opened:
        running = [opened.enter_context(serving(folder, sync_wait_s=0)) for folder in folders]
        servers = [_Server(opened.enter_context(one.client())) for one in running]
        for server in servers:
            # Loads the model, and every statement is compiled once.
            for _ in range(_WARM_UPS):
                server.burst()
            server.latencies = Latencies()
        for turn in range(rounds):
            for server in servers[turn % len(servers) :] + servers[: turn % len(servers)]:
                server.burst()
        return [server.latencies for server in servers]


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    into.append((time.perf_counter() - started) * 1000)


def _figures(found: dict[str, list[Latencies]]) -> Iterator[tuple[str, list[float]]]:
    """A name, and milliseconds for each number of jobs."""
    for database, per_number in found.items():
        for call in Latencies().by_call():
            for name, of in PERCENTILES.items():
                yield f"{database}, {call}, {name}", [of(one.by_call()[call]) for one in per_number]


def _table(jobs: Sequence[int], found: dict[str, list[Latencies]], missing: Sequence[str]) -> Table:
    rows = [(name, *(f"{value:.1f}" for value in values), f"{values[-1] / values[0]:.2f}") for name, values in _figures(found)]
    if missing:
        rows.append(("PostgreSQL", *[NOT_MEASURED] * (len(jobs) + 1)))
    figures = {
        "jobs": list(jobs),
        "ms": {name: [round(value, 2) for value in values] for name, values in _figures(found)},
        "last_by_first": {name: round(values[-1] / values[0], 3) for name, values in _figures(found)},
        "not_measured": list(missing),
    }
    counts = ", ".join(f"{len(values)} {call}" for call, values in found["SQLite"][0].by_call().items())
    return Table(
        "The queue with a long history",
        (*(f"{number:,} jobs, ms" for number in jobs), "last / first"),
        tuple(rows),
        note=f"Over HTTP, from servers that take turns, each with a database that holds so many finished jobs; {_BURST} requests at once "
        f"of 64 px and one step, fetched while they wait and are drawn. Answers each: {counts}. {' '.join(missing)}".rstrip(),
        figures=figures,
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=list(_JOBS), help="finished jobs in the table of each server")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    found, missing = latencies(options.jobs, options.rounds)
    tell("queue", _table(options.jobs, found, missing))


if __name__ == "__main__":
    main()
