"""End to end: a real server, PNGs over HTTP, so many requests in flight for some seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import httpx

from ..server import BenchmarkFailed, scratch_folder, serving
from ..table import NOT_MEASURED, Table
from .closed_loop import sustained
from .pages import Pages
from .sections import verdicts
from .subjects import SCHEDULER, Subject

_PATH = "/api/v4/dreambooth"
"""A call that lets a request name its sampler."""


def served(subject: Subject, pages: Pages) -> None:
    """Raises BenchmarkFailed where the server gives no picture."""
    number = subject.targets.at_in_flight or max(subject.in_flight)
    settings: Mapping[str, str] = {} if subject.is_embedded else {"SDAPI_MODELS_DIR": str(subject.models_dir.resolve())}
    picture_bytes: list[int] = []
    failures: list[BaseException] = []
    with (
        scratch_folder() as folder,
        serving(folder, settings=settings) as server,
        server.client() as client,
        ThreadPoolExecutor(number) as threads,
    ):
        done: SimpleQueue[tuple[int, float]] = SimpleQueue()

        def draw(seed: int) -> None:
            def ended(picture: Future[int]) -> None:
                failure = picture.exception()
                (picture_bytes if failure is None else failures).append(picture.result() if failure is None else failure)  # type: ignore[arg-type]
                done.put((seed, time.perf_counter()))

            threads.submit(_png_bytes, client, subject, seed).add_done_callback(ended)

        _png_bytes(client, subject, 0)  # loads the model
        sustained(draw, done, number, subject.warm_s)
        level = sustained(draw, done, number, subject.window_s)
    if failures:
        raise BenchmarkFailed(f"{len(failures)} requests failed, the first with {failures[0]}")
    cells = f"{level.per_s:.2f}", f"{level.p50_s:.2f}", f"{level.p95_s:.2f}", f"{sum(picture_bytes) / len(picture_bytes) / 1000:.0f}"
    target = "; ".join(verdicts(subject, level.per_s, level.p50_s)) or NOT_MEASURED
    pages.add(
        f"gpu {subject.family} served",
        Table(
            f"{subject.name}: over HTTP",
            ("pictures/s", "p50, s", "p95, s", "a PNG, KB", "target"),
            ((f"sdapi serve, {number} in flight", *cells, target),),
            note=f"{level.pictures} pictures; a request follows each that has its PNG downloaded. Queue, database, PNG and disk included.",
        ),
    )


def _png_bytes(client: httpx.Client, subject: Subject, seed: int) -> int:
    request = subject.request(seed)
    fields: dict[str, Any] = {
        "model_id": subject.checkpoint,
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "scheduler": SCHEDULER.value,
        "seed": seed,
    }
    answer = client.post(_PATH, json=fields).raise_for_status().json()
    if answer["status"] != "success":
        raise BenchmarkFailed(f"no picture: {answer}")
    return len(client.get(answer["output"][0]).raise_for_status().content)
