"""What the server adds to the drawing: one picture over HTTP against one call of diffusers' pipeline, in turns."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import httpx

from sdapi.catalog import EMBEDDED_ID, embedded_model_dir

from .record import tell
from .server import BenchmarkFailed, draw, scratch_folder, serving
from .table import NOT_MEASURED, Table

_SIDE_PX = 512
_STEPS = 20
_ROUNDS = 7


def measure(side_px: int = _SIDE_PX, steps: int = _STEPS, rounds: int = _ROUNDS) -> Table:
    """As a table."""
    return _table(seconds(side_px, steps, rounds), side_px, steps)


def seconds(side_px: int, steps: int, rounds: int, models_dir: Path | None = None) -> list[tuple[float, float]]:
    """Per round: the bare call, and the same picture over HTTP, PNG fetched; one in flight.

    With the embedded model, or, where there is a `models_dir`, with SD 1.5 in its full size and with random weights, written there.
    """
    # Imports torch, which the other benchmarks of a report can do without.
    import torch

    from sdapi.domain.generation import Txt2Img

    from .random_weights import checkpoint_folder
    from .stock_pipeline import draw_stock, stock_pipeline

    folder = embedded_model_dir() if models_dir is None else checkpoint_folder(models_dir, "sd1")
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    checkpoint = EMBEDDED_ID if models_dir is None else folder.name
    if threads := int(os.environ.get("SDAPI_TORCH_THREADS", "0")):
        torch.set_num_threads(threads)  # as many as the server has
    # Both in one format, whichever the server would choose: that another one is faster is not the path's merit.
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    pipeline = stock_pipeline(folder, device).to(dtype)
    prompt = "a red circle on a blue background"

    def bare_s(seed: int, steps: int) -> float:
        request = Txt2Img(checkpoint=checkpoint, prompt=prompt, width=side_px, height=side_px, seed=seed, steps=steps, guidance_scale=7.5)
        started = time.perf_counter()
        draw_stock(pipeline, request)
        return time.perf_counter() - started

    def over_http_s(client: httpx.Client, seed: int, steps: int) -> float:
        size = {"width": side_px, "height": side_px}
        fields = {**size, "model_id": checkpoint, "seed": seed, "num_inference_steps": steps, "guidance_scale": 7.5}
        started = time.perf_counter()
        answer = draw(client, prompt=prompt, **fields)
        client.get(answer["output"][0]).raise_for_status()
        return time.perf_counter() - started

    found: list[tuple[float, float]] = []
    settings = {"SDAPI_DTYPE": str(dtype).removeprefix("torch.")}
    if models_dir is not None:
        settings["SDAPI_MODELS_DIR"] = str(models_dir.resolve())
    with scratch_folder() as data, serving(data, settings=settings) as server, server.client() as client:
        # Load the model and let torch choose its kernels.
        bare_s(0, 2)
        over_http_s(client, 0, 2)
        for seed in range(1, rounds + 1):
            if seed % 2:
                bare = bare_s(seed, steps)
                found.append((bare, over_http_s(client, seed, steps)))
            else:
                served = over_http_s(client, seed, steps)
                found.append((bare_s(seed, steps), served))
    return found


def _ratio(found: list[tuple[float, float]]) -> float:
    return statistics.median(served / bare for bare, served in found)


def _table(found: list[tuple[float, float]], side_px: int, steps: int) -> Table:
    bare, served = (statistics.median(column) for column in zip(*found, strict=True))
    ratios = [over / alone for alone, over in found]
    return Table(
        f"One picture of {side_px} px and {steps} steps, alone",
        ("median, s", "against diffusers", "least to greatest"),
        (
            ("diffusers' StableDiffusionPipeline, called", f"{bare:.2f}", NOT_MEASURED, NOT_MEASURED),
            ("the server, over HTTP", f"{served:.2f}", f"{_ratio(found):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"),
        ),
        note=f"{len(found)} rounds, in turns, which is first changing. Over HTTP: queue, PNG, disk and the picture's download included.",
        figures={"bare_and_http_s": [[round(value, 3) for value in pair] for pair in found], "http_by_bare": round(_ratio(found), 4)},
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=_SIDE_PX)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument(
        "--full-size", type=Path, metavar="FOLDER", help="SD 1.5 with random weights, 2 GB, written into FOLDER/checkpoints"
    )
    options = parser.parse_args()
    found = seconds(options.side_px, options.steps, options.rounds, options.full_size)
    tell("overhead", _table(found, options.side_px, options.steps))


if __name__ == "__main__":
    main()
