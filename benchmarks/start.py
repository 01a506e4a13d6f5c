"""How long a start takes, until the first answer and until the first picture, and what memory that needs."""

from __future__ import annotations

import statistics
import time

import httpx

from .record import tell
from .server import RunningServer, draw, scratch_folder, serving
from .table import NOT_MEASURED, Table

_REPEATS = 3


def measure() -> Table:
    """A start with an empty data folder, its first pictures, and a second start that finds the database there."""
    with scratch_folder() as folder:
        with serving(folder) as server, server.client() as client:
            first = _before_any_picture(server)
            first_picture_s = _seconds_to_draw(client, side_px=256)
            large_s = [_seconds_to_draw(client, side_px=512) for _ in range(_REPEATS)]
            resident_after = server.resident_bytes()
            first_answer_s = server.first_answer_s
        with serving(folder) as server:
            second = _before_any_picture(server)
    names = ("process start to first answer, s", "torch in the process then", "resident memory then, MB")
    only_first = (
        ("first picture (256 px, 20 steps, loads the model), s", f"{first_picture_s:.2f}"),
        ("process start to first picture, s", f"{first_answer_s + first_picture_s:.2f}"),
        (f"512 px, 20 steps afterwards, median of {_REPEATS}, s", f"{statistics.median(large_s):.2f}"),
        ("resident memory after these, MB", _megabytes(resident_after)),
    )
    return Table(
        "Start",
        ("first start", "second start"),
        (*zip(names, first, second, strict=True), *((name, value, NOT_MEASURED) for name, value in only_first)),
        note="Second start: the database is already there.",
    )


def _before_any_picture(server: RunningServer) -> tuple[str, str, str]:
    torch_there = {True: "yes", False: "no", None: "unknown"}[server.has_torch()]
    return f"{server.first_answer_s:.2f}", torch_there, _megabytes(server.resident_bytes())


def _seconds_to_draw(client: httpx.Client, *, side_px: int) -> float:
    started = time.perf_counter()
    draw(client, width=side_px, height=side_px, num_inference_steps=20)
    return time.perf_counter() - started


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 10**6:.0f}"


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    tell("start", measure())


if __name__ == "__main__":
    main()
