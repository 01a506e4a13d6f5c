"""Runs every benchmark and prints a report in Markdown; ends with 1 when one of them could not be run."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from . import (
    arrivals,
    batching,
    coldstart,
    concurrency,
    crash,
    encoding,
    eta,
    formats,
    memory,
    overhead,
    quantized,
    queue,
    start,
    switch,
    throughput,
    uploads,
    upscaling,
)
from .record import append, circumstances, line
from .table import Table

_BENCHMARKS: tuple[Callable[[], Table], ...] = (
    start.measure,
    coldstart.measure,
    queue.measure,
    concurrency.measure,
    eta.measure,
    crash.measure,
    memory.measure,
    batching.measure,
    throughput.measure,
    arrivals.measure,
    switch.measure,
    formats.measure,
    quantized.measure,
    encoding.measure,
    uploads.measure,
    # These draw on this thread, whose team of torch's threads would slow the loops of those above.
    upscaling.measure,
    overhead.measure,
)


def main() -> int:
    """Print the tables as they come, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="a folder that gets the figures, too: one line of JSON for each benchmark")
    options = parser.parse_args()
    started = time.monotonic()
    print(f"# Benchmarks\n\n{_machine().markdown()}\n", flush=True)
    failed = 0
    for measure in _BENCHMARKS:
        name = measure.__module__.rpartition(".")[2]
        try:
            found = measure()
            print(f"{found.markdown()}\n", flush=True)
            if options.out is not None:
                append(options.out, line(name, found))
        except Exception:  # noqa: BLE001 - whatever ended one benchmark, the others still have something to tell
            failed += 1
            print(f"## {measure.__module__} could not be run\n", flush=True)
            traceback.print_exc()
    print(f"{_torch()} Measured in {time.monotonic() - started:.0f} s.")
    return 1 if failed else 0


def _machine() -> Table:
    told = circumstances()
    machine, versions = told["machine"], told["versions"]
    load = ", ".join(f"{value:.1f}" for value in machine["load_1_5_15_min"])
    return Table(
        "Machine",
        ("",),
        (
            ("CPU", machine["cpu"]),
            ("GPU", machine["gpu"] or "none"),
            ("cores, logical", f"{machine['cores'] or 'unknown'}, {machine['logical_cores']}"),
            ("memory, GB", f"{machine['memory_gb']:.0f}"),
            ("load (1, 5, 15 min)", load),
            ("system", f"{machine['system']}, Python {versions['python']}"),
            *((name, versions[name] or "unknown") for name in ("torch", "diffusers", "sdapi")),
            ("commit", told["commit"] or "unknown"),
        ),
    )


def _torch() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    return f"torch draws on {device}, with {torch.get_num_threads()} CPU threads."


if __name__ == "__main__":
    sys.exit(main())
