"""Runs the parts one after another, each in a process of its own that is ended when its time is over, and writes FOLDER/report.md."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .pages import Pages

_TOTAL_S, _DRY_TOTAL_S = 570.0, 240.0
_LEAST_S, _DRY_LEAST_S = 25.0, 5.0
"""A part that finds less time left is not begun."""
_WORK = Path("data/full_size")


@dataclass(frozen=True)
class _Part:
    name: str
    title: str
    limit_s: float


_PARTS = (
    # Asking torch for the device's name here would keep a part of the device for as long as all of it takes.
    _Part("machine", "The machine", 60),
    _Part("weights-sd1", "SD 1.5, writing random weights", 60),
    _Part("sd1", "SD 1.5, in one process with diffusers' pipeline", 190),
    _Part("served", "SD 1.5, over HTTP", 80),
    _Part("weights-sdxl", "SDXL, writing random weights", 120),
    _Part("sdxl", "SDXL, in one process with diffusers' pipeline", 260),
    # What it leaves out when time is short is told by `--only switch`.
    _Part("switch", "SD 1.5 and a copy of it, with room for one on the device", 80),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder for report.md and results.jsonl; older ones in it go")
    parser.add_argument("--work", type=Path, default=_WORK, help="where the checkpoints with random weights lie, 9 GB")
    parser.add_argument("--dry-run", action="store_true", help="the same on the CPU with the embedded model, in about a minute")
    parser.add_argument("--only", choices=[part.name for part in _PARTS], action="append", help="may be given more than once")
    parser.add_argument("--total-s", type=float, help="for all parts together; those that find no time left are skipped")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--limit-s", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part is not None:
        return _do(options)
    return _all(options)


def _all(options: argparse.Namespace) -> int:
    for old in options.out.glob("*"):
        if old.suffix in (".md", ".jsonl", ".txt") and old.is_file():
            old.unlink()
    pages = Pages(options.out)
    pages.say("# A dry run: nothing here says anything of speed" if options.dry_run else "# What this GPU gives")
    pages.say(f"`{shlex.join(['python', *sys.orig_argv[1:]])}`")
    started = time.monotonic()
    total_s = (_DRY_TOTAL_S if options.dry_run else _TOTAL_S) if options.total_s is None else options.total_s
    failed = 0
    for part in _PARTS:
        if options.only and part.name not in options.only:
            continue
        left_s = total_s - (time.monotonic() - started)
        if left_s < (_DRY_LEAST_S if options.dry_run else _LEAST_S):
            pages.say(f"*{part.title}: skipped, time ran short.*")
            continue
        failed += not _ended_well(part, min(part.limit_s, left_s), options, pages)
    pages.say(f"Measured in {time.monotonic() - started:.0f} s.")
    return 1 if failed else 0


def _ended_well(part: _Part, limit_s: float, options: argparse.Namespace, pages: Pages) -> bool:
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part.name, "--limit-s", f"{limit_s:.0f}"]
    command += ["--out", str(options.out), "--work", str(options.work), *(["--dry-run"] if options.dry_run else [])]
    # A session of its own, so that a server it has started ends with it.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pages.say(f"*{part.title}: ended after {limit_s:.0f} s, unfinished.*")
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        pages.say(f"*{part.title}: failed; what it printed says why.*")
    return code == 0


def _do(options: argparse.Namespace) -> int:
    # The process that waits for the others needs no torch.
    from . import parts

    pages = Pages(options.out)
    match options.part:
        case "machine":
            parts.machine(pages)
        case "weights-sd1":
            parts.weights("sd1", options.work, dry_run=options.dry_run)
        case "weights-sdxl":
            parts.weights("sdxl", options.work, dry_run=options.dry_run)
        case "served":
            parts.over_http(options.work, pages, dry_run=options.dry_run)
        case "switch":
            parts.switched(options.work, pages, dry_run=options.dry_run)
        case family:
            return parts.in_this_process(family, options.work, pages, limit_s=options.limit_s, dry_run=options.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
