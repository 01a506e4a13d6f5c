"""What sharing forwards gains: eight pictures together against one after another, of the server and of diffusers itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx

from .record import tell
from .server import draw, scratch_folder, serving
from .table import NOT_MEASURED, Table

_PICTURES = 8
_STEPS = 20
_ROUNDS = 2
"""Taken in turns, so that what else the machine does hits both sides."""
_SIDES_PX = (128, 256)


def measure() -> Table:
    """Through the server first; then its drawing loop in this process, against diffusers."""
    rows = []
    with scratch_folder() as folder, serving(folder) as server, server.client() as client:
        draw(client, width=64, height=64)
        for side_px in _SIDES_PX:
            rounds = [(_one_after_another_s(client, side_px), _together_s(client, side_px)) for _ in range(_ROUNDS)]
            rows.append(_row(f"server: one after another / together, {side_px} px", rounds, NOT_MEASURED))
    # Imports torch, which the other benchmarks of a report can do without.
    from .stock_pipeline import compare

    for side_px in _SIDES_PX:
        found = compare(side_px=side_px, steps=_STEPS, pictures=_PICTURES, rounds=_ROUNDS)
        rows.append(
            _row(f"StableDiffusionPipeline one by one / our loop, {side_px} px", found.seconds, f"{found.greatest_difference} of 255")
        )
    return Table(
        f"{_PICTURES} pictures of {_STEPS} steps",
        ("one by one, s", "together, s", "ratio", "greatest difference"),
        tuple(rows),
        note=f"Means of {_ROUNDS} rounds taken in turns. Server: HTTP, queue, PNG and disk included. StableDiffusionPipeline: "
        "diffusers' own, in this process, with the same prompts and seeds; the difference is between its pictures and ours.",
    )


def _one_after_another_s(client: httpx.Client, side_px: int) -> float:
    started = time.perf_counter()
    for seed in range(_PICTURES):
        draw(client, **_fields(side_px, seed))
    return time.perf_counter() - started


def _together_s(client: httpx.Client, side_px: int) -> float:
    with ThreadPoolExecutor(_PICTURES) as threads:
        started = time.perf_counter()
        for drawn in [threads.submit(draw, client, **_fields(side_px, seed)) for seed in range(_PICTURES)]:
            drawn.result()
        return time.perf_counter() - started


def _fields(side_px: int, seed: int) -> Mapping[str, int]:
    return {"width": side_px, "height": side_px, "num_inference_steps": _STEPS, "seed": seed}


def _row(name: str, rounds: list[tuple[float, float]], difference: str) -> tuple[str, ...]:
    alone_s, together_s = (statistics.mean(seconds) for seconds in zip(*rounds, strict=True))
    return name, f"{alone_s:.2f}", f"{together_s:.2f}", f"{alone_s / together_s:.2f}", difference


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    tell("batching", measure())


if __name__ == "__main__":
    main()
