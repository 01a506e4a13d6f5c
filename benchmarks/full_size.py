"""What checkpoints of full size take: seconds to load, seconds for a step, and memory. Their weights are random; that costs the same.

`python -m benchmarks.full_size --work FOLDER` writes them into FOLDER when they are first needed (2 GB for SD 1.5, 7 GB for SDXL).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from .record import tell
from .table import Table

_SIDES_PX = {"sd1": 512, "sdxl": 1024}
_TITLES = {"sd1": "SD 1.5", "sdxl": "SDXL"}
_FLOAT32_SHARE = 0.6
"""Of the free memory: checkpoints whose float32 weights take more are loaded in bfloat16."""


@dataclass(frozen=True)
class Measured:
    """Of one checkpoint, on the CPU, in a process of its own."""

    family: str
    side_px: int
    dtype: str
    threads: int
    weights_bytes: int
    """In memory."""
    load_s: float
    prompt_s: float
    """Reading both prompts and making the first latents."""
    step_s: float
    """One step of one picture at guidance 1: one forward."""
    step_cpu_s: float
    """Of all cores together; less than `step_s` where others had the machine, too."""
    decode_s: float
    peak_rss_bytes: int
    """Of the whole process, libraries included."""


def measure_one(models_dir: Path, family: str, *, side_px: int, dtype_name: str) -> Measured:
    """In this process, which should have done nothing before."""
    import torch

    from sdapi.catalog import Catalog
    from sdapi.domain.generation import Txt2Img
    from sdapi.pipelines.families.unet import UnetModel
    from sdapi.pipelines.loading.loader import load_checkpoint

    checkpoint = Catalog(models_dir, aliases={}, embedded=None).get(f"random-{family}")
    if dtype_name == "auto":
        has_room = 2 * checkpoint.size_bytes < _FLOAT32_SHARE * psutil.virtual_memory().available
        dtype_name = "float32" if has_room else "bfloat16"
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        seconds[what], cpu_seconds[what] = time.perf_counter() - started, time.process_time() - cpu_started

    with timed("load"):
        parts = load_checkpoint(checkpoint, device=torch.device("cpu"), dtype=getattr(torch, dtype_name))
    model = UnetModel(checkpoint.id, parts)
    size = {"width": side_px, "height": side_px}
    request = Txt2Img.model_validate({"checkpoint": checkpoint.id, "prompt": "a cat", "seed": 1, "steps": 1, "guidance_scale": 1, **size})
    with timed("prompt"):
        (row,) = model.prepare(request, None)
    with timed("step"):
        (predicted,) = model.predict([row])
        model.advance(row, predicted)
    with timed("decode"):
        model.decode(row)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(
        family=family,
        side_px=side_px,
        dtype=dtype_name,
        threads=torch.get_num_threads(),
        weights_bytes=parts.bytes,
        load_s=round(seconds["load"], 2),
        prompt_s=round(seconds["prompt"], 2),
        step_s=round(seconds["step"], 2),
        step_cpu_s=round(cpu_seconds["step"], 2),
        decode_s=round(seconds["decode"], 2),
        peak_rss_bytes=peak_bytes,
    )


def measure(work: Path, families: list[str], *, side_px: int | None, dtype_name: str) -> Table:
    """Each family in a process of its own, so that peaks don't mix."""
    found = []
    for family in families:
        side = side_px or _SIDES_PX[family]
        command = [sys.executable, "-m", "benchmarks.full_size", "--work", str(work), "--side-px", str(side), "--dtype", dtype_name]
        subprocess.run([*command, "--write", family], check=True)
        line = subprocess.run([*command, "--measure", family], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        found.append(Measured(**json.loads(line)))
    columns = ("weights, GB", "load, s", "prompt, s", "step, s", "step, CPU s", "decode, s", "peak memory, GB")
    note = (
        "Random weights in the published sizes, fp16 on disk. A step is one forward of one picture, at guidance 1. Peak: the whole process."
    )
    figures = {one.family: asdict(one) for one in found}
    return Table("Checkpoints of full size, on the CPU", columns, tuple(map(_row, found)), note=note, figures=figures)


def _row(found: Measured) -> tuple[str, ...]:
    name = f"{_TITLES[found.family]}, {found.side_px} px, {found.dtype}, {found.threads} threads"
    seconds = (found.load_s, found.prompt_s, found.step_s, found.step_cpu_s, found.decode_s)
    return name, f"{found.weights_bytes / 1e9:.1f}", *(f"{one:.1f}" for one in seconds), f"{found.peak_rss_bytes / 1e9:.1f}"


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the checkpoints lie; written into it on first use")
    parser.add_argument("--family", choices=tuple(_SIDES_PX), action="append", help="only this one; may be given more than once")
    parser.add_argument("--side-px", type=int, help="of the picture; 512 for SD 1.5, 1024 for SDXL")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: float32 where that fits")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        from .random_weights import checkpoint_folder

        checkpoint_folder(options.work, options.write)
    elif options.measure:
        print(json.dumps(asdict(measure_one(options.work, options.measure, side_px=options.side_px, dtype_name=options.dtype))))
    else:
        tell("full_size", measure(options.work, options.family or list(_SIDES_PX), side_px=options.side_px, dtype_name=options.dtype))


if __name__ == "__main__":
    main()
