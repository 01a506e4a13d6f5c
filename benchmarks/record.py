"""What a benchmark found, told twice: a table to read, and one line of JSON that also says where, with what and when it was measured."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from .table import Table

LINES = "results.jsonl"
"""The file of the folder that lines are added to."""

_CHECKOUT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "diffusers", "sdapi")


def tell(benchmark: str, table: Table, out: Path | None = None) -> None:
    """Print the table and its line; add the line to the folder `out` where one is given. Raises OSError where that can't be written."""
    recorded = line(benchmark, table)
    print(f"{table.markdown()}\n\n{recorded}", flush=True)
    if out is not None:
        append(out, recorded)


def append(out: Path, recorded: str) -> None:
    """Add a line to those in the folder `out`, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LINES).open("a", encoding="utf-8") as lines:
        lines.write(f"{recorded}\n")


def line(benchmark: str, table: Table) -> str:
    """One line of JSON: the figures of `table`, and where they are from."""
    told: dict[str, Any] = {"benchmark": benchmark, "figures": table.numbers(), **circumstances()}
    return json.dumps(told, ensure_ascii=False, default=str)


def circumstances() -> dict[str, Any]:
    """Machine, versions, commit, command and date."""
    return {
        "machine": dict(machine()),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit(),
        # Where this Python lies is nobody's business.
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def machine() -> Mapping[str, Any]:
    """CPU model, cores, memory, GPU (None where there is none), and its load when this was first asked."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 10**9, 1),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1_5_15_min": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for fact in facts.read_text().splitlines():
            if fact.startswith("model name"):
                return fact.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpu() -> str | None:
    # Torch knows GPUs of all makes; most benchmarks have imported it anyway.
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """Of the checkout, with "-dirty" behind it where files differ from it; None outside a checkout or without git."""
    if not (_CHECKOUT / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=_CHECKOUT, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
