"""What each process of its own does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from sdapi.pipelines.forwards.number_formats import number_formats

from ..arithmetic import Arithmetic, arithmetic, peak_flop_per_s
from ..record import circumstances
from ..stock_pipeline import stock_pipeline
from ..switch import switching
from ..switch import table as switching_table
from ..table import Table
from .pages import Pages
from .sections import SECTIONS, Bench, clock
from .served import served
from .subjects import Family, Subject, drawing, subject

_SWITCH_PAIRS = 4
_DRY_SHARE = 0.05
"""Of the time that a section should find left."""


def machine(pages: Pages) -> None:
    """What everything was measured on, and with."""
    told = circumstances()
    found, versions = told["machine"], told["versions"]
    facts = {
        "GPU": found["gpu"] or "none",
        "CPU": f"{found['cpu']}, {found['logical_cores']} logical cores, {found['memory_gb']:.0f} GB",
        **{name: value or "unknown" for name, value in versions.items()},
        "commit": told["commit"] or "unknown",
        "date": told["date"],
    }
    pages.say(Table("Machine", ("",), tuple(facts.items())).markdown())


def weights(family: Family, work: Path, *, dry_run: bool) -> None:
    """Write them, where they are not there yet."""
    subject(family, work, dry_run=dry_run)


def over_http(work: Path, pages: Pages, *, dry_run: bool) -> None:
    """SD 1.5 through a server."""
    served(subject("sd1", work, dry_run=dry_run), pages)


def switched(work: Path, pages: Pages, *, dry_run: bool) -> None:
    """SD 1.5 and a copy of it by turns; those that leave the device are read again, or wait in the host's memory."""
    measured = subject("sd1", work, dry_run=dry_run)
    pairs = 1 if dry_run else _SWITCH_PAIRS
    found = switching(measured.side_px, measured.steps, 1, None if dry_run else work, pairs)
    pages.add("gpu sd1 switch", switching_table(found, measured.side_px, measured.steps, is_full_size=not dry_run))


def in_this_process(family: Family, work: Path, pages: Pages, *, limit_s: float, dry_run: bool) -> int:
    """Every section of one model; how many failed. One that fails or finds no time leaves a note, and the others follow."""
    left_s = clock(limit_s)
    measured = subject(family, work, dry_run=dry_run)
    # Half precision on a GPU, as the server chooses; a dry run has no time for formats that a CPU may only imitate.
    name = "float32" if dry_run else "auto"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = number_formats(name, device).predicting
    work_of_one, peak = arithmetic(measured.folder, measured.side_px), peak_flop_per_s(dtype, dry_run=dry_run)
    _tell_device(measured, pages, work_of_one, peak, dtype)
    pipeline = stock_pipeline(measured.folder, device.type, dtype)
    failed = 0
    with drawing(measured, name) as loop:
        bench = Bench(measured, pipeline, loop, pages, work_of_one, peak, left_s)
        for section, needs_s in SECTIONS:
            failed += not _tried(section, bench, needs_s * (_DRY_SHARE if dry_run else 1))
    return failed


def _tried(section: Callable[[Bench], None], bench: Bench, needs_s: float) -> bool:
    what = f"{bench.subject.name}, {section.__name__.replace('_', ' ')}"
    if bench.left_s() < needs_s:
        bench.pages.say(f"*{what}: skipped, time ran short.*")
        return True
    try:
        section(bench)
    except Exception as error:  # noqa: BLE001 - whatever ended one section, the others still have something to tell
        traceback.print_exc()
        bench.pages.say(f"*{what}: failed with {type(error).__name__}: {error}*")
        return False
    return True


def _tell_device(measured: Subject, pages: Pages, work_of_one: Arithmetic, peak: float, dtype: torch.dtype) -> None:
    picture = work_of_one.picture(measured.steps)
    floor_s = picture / peak
    pages.add(
        f"gpu {measured.family} arithmetic",
        Table(
            f"{measured.name}: arithmetic",
            ("",),
            (
                ("UNet, one step with guidance, TFLOP", f"{work_of_one.unet_step / 1e12:.4g}"),
                ("VAE, TFLOP", f"{work_of_one.vae / 1e12:.4g}"),
                ("a picture, TFLOP", f"{picture / 1e12:.4g}"),
                (f"matmul peak in {str(dtype).removeprefix('torch.')}, measured, TFLOP/s", f"{peak / 1e12:.4g}"),
                ("least time of a picture at that peak, ms", f"{floor_s * 1000:.4g}"),
            ),
        ),
    )
