"""kill -9 in the middle of a drawing: how long until a new process has the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from PIL import Image

from .record import tell
from .server import BenchmarkFailed, job_of, scratch_folder, serving, submit, wait_until
from .table import Table

_STEPS = 30
_SIDE_PX = 512
_LOOK_EVERY_S = 0.02


def measure() -> Table:
    """Kill a server halfway through a picture, start another in the same folder, and wait for the picture."""
    with scratch_folder() as folder:
        with serving(folder, sync_wait_s=0) as server, server.client() as client:
            job_id = submit(client, width=_SIDE_PX, height=_SIDE_PX, num_inference_steps=_STEPS, seed=5)["id"]
            wait_until(lambda: _at_half(job_of(client, job_id)), look_every_s=_LOOK_EVERY_S)
            step = job_of(client, job_id)["step"]
            server.kill()
        restarted = datetime.now(UTC)
        # The same port, because the picture's link was made by the first process.
        with serving(folder, sync_wait_s=0, port=server.port) as revived, revived.client() as client:
            wait_until(lambda: _fetched(client, job_id), look_every_s=_LOOK_EVERY_S)
            fetched_s = (datetime.now(UTC) - restarted).total_seconds()
            job = job_of(client, job_id)
            size = _size_of(client, job["output"][0])
    claimed_s, drawn_s = (_seconds(restarted, job[moment]) for moment in ("started_at", "finished_at"))
    return Table(
        "kill -9 in the middle of a drawing",
        ("s",),
        (
            ("new process to its first answer", f"{revived.first_answer_s:.2f}"),
            ("new process to the job being taken up again", f"{claimed_s:.2f}"),
            ("drawing it from the start, the model's loading included", f"{drawn_s - claimed_s:.2f}"),
            ("new process to fetch returning the picture", f"{fetched_s:.2f}"),
        ),
        note=f"Killed at step {step} of {_STEPS}; the picture then has {size[0]}x{size[1]} px.",
    )


def _at_half(job: Mapping[str, Any]) -> bool:
    if job["finished_at"] is not None:
        raise BenchmarkFailed("the picture was done before the server could be killed")
    return (job["step"] or 0) >= _STEPS // 2


def _fetched(client: httpx.Client, job_id: int) -> bool:
    response = client.post("/sd/fetch", json={"id": job_id})
    if response.status_code != 200 or response.json()["status"] not in ("processing", "success"):
        raise BenchmarkFailed(f"fetch answered {response.status_code}: {response.text}")
    return bool(response.json()["status"] == "success")


def _size_of(client: httpx.Client, link: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(client.get(link).raise_for_status().content)) as image:
        image.load()
        return image.size


def _seconds(since: datetime, moment: str) -> float:
    return (datetime.fromisoformat(moment) - since).total_seconds()


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    tell("crash", measure())


if __name__ == "__main__":
    main()
