"""From the start of the process to its first answer and its first picture, with the model loaded on demand and in advance."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from sdapi.catalog import EMBEDDED_ID

from .random_weights import checkpoint_folder
from .record import tell
from .server import draw, scratch_folder, serving, wait_until
from .table import NOT_MEASURED, Table

_SIDE_PX = 256
_STEPS = 20
_REPEATS = 3


@dataclass(frozen=True)
class Start:
    """Seconds of one start."""

    answer_s: float
    """From the start of the process to its first answer."""
    ready_s: float | None
    """From the start of the process until what is preloaded is there; None where nothing is."""
    first_picture_s: float
    """From the request to the picture; asked for at once, or once the server says it is ready."""
    second_picture_s: float

    @property
    def start_to_picture_s(self) -> float:
        """From the start of the process to the first picture."""
        return (self.ready_s or self.answer_s) + self.first_picture_s


def started(models_dir: Path | None, model: str, *, side_px: int, steps: int, preload: bool) -> Start:
    """One start of a server with an empty data folder. None for `models_dir`: it has the embedded model alone."""
    settings = {"SDAPI_PRELOAD": model if preload else ""}
    if models_dir is not None:
        settings["SDAPI_MODELS_DIR"] = str(models_dir.resolve())
    with scratch_folder() as folder:
        began = time.perf_counter()
        with serving(folder, settings=settings) as server, server.client() as client:
            ready_s = None
            if preload:
                wait_until(lambda: client.get("/readyz").status_code == 200, look_every_s=0.01)
                ready_s = time.perf_counter() - began
            first_s, second_s = (_picture_s(client, model, side_px, steps) for _ in range(2))
            return Start(server.first_answer_s, ready_s, first_s, second_s)


def _picture_s(client: httpx.Client, model: str, side_px: int, steps: int) -> float:
    before = time.perf_counter()
    draw(client, model_id=model, width=side_px, height=side_px, num_inference_steps=steps)
    return time.perf_counter() - before


def measure(side_px: int = _SIDE_PX, steps: int = _STEPS, repeats: int = _REPEATS, full_size: Path | None = None) -> Table:
    """Starts without and with preloading, in turns. `full_size` is a models folder for SD 1.5 with random weights."""
    model = EMBEDDED_ID if full_size is None else checkpoint_folder(full_size, "sd1").name
    found: dict[bool, list[Start]] = {False: [], True: []}
    for _ in range(repeats):
        for preload, starts in found.items():
            starts.append(started(full_size, model, side_px=side_px, steps=steps, preload=preload))
    told: tuple[tuple[str, Callable[[Start], float | None]], ...] = (
        ("process start to first answer, s", lambda start: start.answer_s),
        ("process start to ready with the model, s", lambda start: start.ready_s),
        ("first picture, s", lambda start: start.first_picture_s),
        ("process start to first picture, s", lambda start: start.start_to_picture_s),
        ("second picture, s", lambda start: start.second_picture_s),
    )
    return Table(
        "Cold start",
        ("on demand", f"SDAPI_PRELOAD={model}"),
        tuple((name, *(_median([of(start) for start in starts]) for starts in found.values())) for name, of in told),
        note=f"Medians of {repeats}, in turns; {side_px} px, {steps} steps, {model}. The first picture is asked for at the first answer, "
        "or with preloading once /readyz answers 200.",
        figures={
            name: [asdict(start) for start in starts] for name, starts in zip(("on_demand", "preloaded"), found.values(), strict=True)
        },
    )


def _median(seconds: list[float | None]) -> str:
    there = [one for one in seconds if one is not None]
    return f"{statistics.median(there):.2f}" if there else NOT_MEASURED


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=_SIDE_PX)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--repeats", type=int, default=_REPEATS)
    parser.add_argument(
        "--full-size", type=Path, metavar="FOLDER", help="SD 1.5 with random weights, written into FOLDER/checkpoints, 2 GB"
    )
    parser.add_argument("--out", type=Path, help="a folder that gets the line of JSON, too")
    options = parser.parse_args()
    tell("coldstart", measure(options.side_px, options.steps, options.repeats, options.full_size), options.out)


if __name__ == "__main__":
    main()
