"""Runs every benchmark and prints a report in Markdown; ends with 1 when one of them could not be run."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil

from . import batching, concurrency, crash, eta, overhead, queue, start, upscaling
from .table import Table

_BENCHMARKS: tuple[Callable[[], Table], ...] = (
    start.measure,
    queue.measure,
    concurrency.measure,
    eta.measure,
    crash.measure,
    batching.measure,
    upscaling.measure,
    overhead.measure,
)


def main() -> int:
    """Print the tables as they come, and return the exit code."""
    started = time.monotonic()
    print(f"# Benchmarks\n\n{_machine().markdown()}\n", flush=True)
    failed = 0
    for measure in _BENCHMARKS:
        try:
            print(f"{measure().markdown()}\n", flush=True)
        except Exception:  # noqa: BLE001 - whatever ended one benchmark, the others still have something to tell
            failed += 1
            print(f"## {measure.__module__} could not be run\n", flush=True)
            traceback.print_exc()
    print(f"{_torch()} Measured in {time.monotonic() - started:.0f} s.")
    return 1 if failed else 0


def _machine() -> Table:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return Table(
        "Machine",
        ("",),
        (
            ("CPU", _cpu_model()),
            ("cores, logical", f"{psutil.cpu_count(logical=False) or 'unknown'}, {psutil.cpu_count()}"),
            ("memory, GB", f"{psutil.virtual_memory().total / 10**9:.0f}"),
            ("load before (1, 5, 15 min)", load),
            ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
            *((name, version(name)) for name in ("torch", "diffusers", "sdapi")),
        ),
    )


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _torch() -> str:
    # Imported last: the servers' figures should not be taken while this process does heavy work.
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    return f"torch draws on {device}, with {torch.get_num_threads()} CPU threads."


if __name__ == "__main__":
    sys.exit(main())
