"""Eight different requests at once: whether all succeed, and how quickly the server answers others meanwhile."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from PIL import Image

from .record import tell
from .server import BenchmarkFailed, RunningServer, draw, scratch_folder, serving
from .table import Table

_IDLE_S = 2.0
_PAUSE_S = 0.01
_EIGHT: tuple[Mapping[str, Any], ...] = (
    {"width": 64, "height": 64, "seed": 0, "num_inference_steps": 50, "guidance_scale": 7.5},
    {"width": 96, "height": 64, "seed": 11, "num_inference_steps": 40, "guidance_scale": 1},
    {"width": 128, "height": 128, "seed": 22, "num_inference_steps": 30, "guidance_scale": 5},
    {"width": 128, "height": 128, "seed": 33, "num_inference_steps": 20, "guidance_scale": 9},
    {"width": 192, "height": 128, "seed": 44, "num_inference_steps": 25, "guidance_scale": 3},
    {"width": 192, "height": 192, "seed": 55, "num_inference_steps": 20, "guidance_scale": 7.5},
    {"width": 256, "height": 256, "seed": 66, "num_inference_steps": 20, "guidance_scale": 2},
    {"width": 256, "height": 256, "seed": 77, "num_inference_steps": 30, "guidance_scale": 7.5},
)


@dataclass
class _Latencies:
    """Milliseconds of the answers to a poller, by route."""

    healthz: list[float] = field(default_factory=list)
    fetch: list[float] = field(default_factory=list)


def measure() -> Table:
    """One server, polled while it loads its model, while it is idle and while it draws eight."""
    with scratch_folder() as folder, serving(folder) as server, server.client() as client, ThreadPoolExecutor(len(_EIGHT)) as threads:
        first = threads.submit(draw, client, width=64, height=64)
        loading = _poll(server, _ids_of_newest(client, 1), until=first.done)
        first_id = first.result()["id"]
        idle_until = time.monotonic() + _IDLE_S
        idle = _poll(server, [first_id], until=lambda: time.monotonic() > idle_until)

        started = time.perf_counter()
        eight = [threads.submit(draw, client, **fields) for fields in _EIGHT]
        drawing = _poll(server, _ids_of_newest(client, len(_EIGHT), besides=first_id), until=lambda: all(f.done() for f in eight))
        wall_s = time.perf_counter() - started
        outcome = _outcome(client, eight)
    return Table(
        "Eight requests at once",
        ("idle, ms", "drawing eight, ms", "loading the model, ms"),
        (
            *_rows("GET /healthz", [x.healthz for x in (idle, drawing, loading)]),
            *_rows("POST /sd/fetch", [x.fetch for x in (idle, drawing, loading)]),
        ),
        note=f"{outcome}, in {wall_s:.1f} s. Latencies on a keep-alive connection of its own, fetching the pictures "
        "that are being drawn (idle: a finished one); the last column is while the first picture makes the server import torch.",
    )


def _poll(server: RunningServer, ids: Sequence[int], *, until: Callable[[], bool]) -> _Latencies:
    """Ask both routes in turn, from a client of its own."""
    latencies = _Latencies()
    with server.client() as poller:
        # Connecting is not what is measured.
        poller.get("/healthz").raise_for_status()
        turn = 0
        while not until():
            latencies.healthz.append(_milliseconds(partial(poller.get, "/healthz")))
            latencies.fetch.append(_milliseconds(partial(poller.post, "/sd/fetch", json={"id": ids[turn % len(ids)]})))
            turn += 1
            time.sleep(_PAUSE_S)
    return latencies


def _milliseconds(ask: Callable[[], httpx.Response]) -> float:
    started = time.perf_counter()
    ask().raise_for_status()
    return (time.perf_counter() - started) * 1000


def _ids_of_newest(client: httpx.Client, number: int, *, besides: int | None = None) -> list[int]:
    """The ids of calls that are being held, which their callers don't know yet."""
    for _ in range(500):
        ids = [job["id"] for job in client.get("/jobs", params={"limit": number}).raise_for_status().json()["jobs"] if job["id"] != besides]
        if len(ids) == number:
            return ids
        time.sleep(_PAUSE_S)
    raise BenchmarkFailed(f"the server did not take {number} requests")


def _outcome(client: httpx.Client, futures: Sequence[Future[Mapping[str, Any]]]) -> str:
    succeeded = as_asked = 0
    for future, fields in zip(futures, _EIGHT, strict=True):
        if future.exception() is not None:
            continue
        succeeded += 1
        answer = future.result()
        with Image.open(io.BytesIO(client.get(answer["output"][0]).raise_for_status().content)) as image:
            size_is_right = image.size == (fields["width"], fields["height"])
        as_asked += size_is_right and answer["meta"]["seed"] == fields["seed"]
    return f"{succeeded} of {len(futures)} succeeded, {as_asked} with the size and seed asked for"


def _rows(route: str, per_column: Sequence[Sequence[float]]) -> list[tuple[str, ...]]:
    statistic: dict[str, Callable[[Sequence[float]], float]] = {"median": statistics.median, "p95": _p95, "max": max}
    rows = [(f"{route}, {name}", *(f"{of(latencies):.1f}" for latencies in per_column)) for name, of in statistic.items()]
    return [*rows, (f"{route}, answers", *(str(len(latencies)) for latencies in per_column))]


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    tell("concurrency", measure())


if __name__ == "__main__":
    main()
