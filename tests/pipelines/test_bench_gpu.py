"""The command that measures a GPU, as far as it can be run without one."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
import torch

from benchmarks.arithmetic import arithmetic, peak_flop_per_s
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import parts, sections
from benchmarks.gpu.closed_loop import sustained
from benchmarks.gpu.pages import Pages
from benchmarks.gpu.sections import Bench, clock
from benchmarks.gpu.subjects import Subject, Targets, drawing, subject
from benchmarks.stock_pipeline import stock_pipeline
from benchmarks.switch import Switching, table
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    dry = subject("sdxl", tmp_path_factory.mktemp("work"), dry_run=True)
    return replace(dry, steps=2, in_flight=(1, 2), warm_s=0.0, window_s=0.1, arrivals=2, targets=Targets(1e9, 2, 1e9, 1e9))


@pytest.fixture(scope="module")
def bench(small: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    pipeline = stock_pipeline(small.folder, "cpu")
    with drawing(small, "float32") as loop:
        pages = Pages(tmp_path_factory.mktemp("out"))
        work_of_one, peak = arithmetic(small.folder, small.side_px), peak_flop_per_s(torch.float32, dry_run=True)
        yield Bench(small, pipeline, loop, pages, work_of_one, peak, clock(600))


def lines(bench: Bench) -> dict[str, dict[str, dict[str, object]]]:
    told = map(json.loads, (bench.pages.out / "results.jsonl").read_text(encoding="utf-8").splitlines())
    return {one["benchmark"]: one["figures"] for one in told}


def test_every_section_writes_its_figures_to_the_report_and_a_line_beside(bench: Bench) -> None:
    for section, _ in sections.SECTIONS:
        section(bench)

    found = lines(bench)
    assert list(found) == [f"gpu sdxl {name}" for name in ("lone", "in flight", "arrivals", "difference", "kernels", "forwards")]
    levels = found["gpu sdxl in flight"]
    assert set(levels) == {
        f"{way} {n}{more}" for n in (1, 2) for way, more in (("our loop,", " in flight"), ("diffusers, static batches of", ""))
    }
    assert levels["our loop, 2 in flight"]["target"] == ">= 1e+09/s: MISSED; p50 < 1e+09 s: met"
    assert found["gpu sdxl arrivals"]["our loop, 8 a second"]["target"] == "mean < 1e+09 s: met"
    assert all(apart["greatest"] <= 2 < apart["spread of the pictures"] for apart in found["gpu sdxl difference"].values())  # type: ignore[operator]
    laid_over = found["gpu sdxl forwards"]["a LoRA for half of them, 2 samples"]
    assert laid_over["as it is, ms"] > 0  # type: ignore[operator]
    assert laid_over["recorded, ms"] is None, "nothing is recorded on a CPU"
    report = (bench.pages.out / "report.md").read_text(encoding="utf-8")
    assert report.count("\n## ") == len(found) - 1  # the first heading begins the file
    assert "conv" in (bench.pages.out / "kernels-sdxl.txt").read_text(encoding="utf-8")


def test_sections_that_find_no_time_left_are_named_in_the_report(small: Subject, tmp_path: Path) -> None:
    failed = parts.in_this_process("sd1", tmp_path, Pages(tmp_path), limit_s=0, dry_run=True)

    assert failed == 0
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.count("skipped, time ran short.") == len(sections.SECTIONS)
    assert "least time of a picture at that peak" in report


def test_parts_that_find_no_time_left_are_named_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("an older one", encoding="utf-8")

    assert command.main(["--out", str(tmp_path), "--dry-run", "--total-s", "0"]) == 0

    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# A dry run")
    assert report.count("skipped, time ran short.") == len(command._PARTS)


def test_a_part_whose_time_is_over_is_ended_and_named_in_the_report(tmp_path: Path) -> None:
    part = next(part for part in command._PARTS if part.name == "served")
    options = argparse.Namespace(out=tmp_path, work=tmp_path, dry_run=True)

    assert not command._ended_well(part, 0.1, options, Pages(tmp_path))

    assert "*SD 1.5, over HTTP: ended after" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize(("family", "side_px", "step", "vae"), [("sd1", 512, 1.607e12, 2.515e12), ("sdxl", 1024, 13.52e12, 10.47e12)])
def test_the_arithmetic_of_full_size_models_is_counted_from_their_configurations(
    small: Subject, family: str, side_px: int, step: float, vae: float
) -> None:
    counted = arithmetic(SHIPPED_CONFIGS / family, side_px)
    assert counted.unet_step == pytest.approx(step, rel=1e-3)
    assert counted.vae == pytest.approx(vae, rel=1e-3)
    assert counted.picture(10) == pytest.approx(10 * step + vae, rel=1e-3)


def test_so_many_are_in_flight_all_the_time() -> None:
    done: SimpleQueue[tuple[int, float]] = SimpleQueue()
    begun: list[int] = []
    in_flight_at_ends: list[int] = []

    def end(number: int) -> None:
        in_flight_at_ends.append(len(begun) - len(in_flight_at_ends))
        done.put((number, time.perf_counter()))

    def draw(number: int) -> None:
        begun.append(number)
        threading.Timer(0.005, end, (number,)).start()

    level = sustained(draw, done, 3, 0.2)

    assert level.pictures == len(begun) > 6
    assert max(in_flight_at_ends) == level.in_flight == 3
    assert level.per_s > 0


def test_a_model_that_returns_from_host_memory_is_held_against_its_load_where_that_is_measured() -> None:
    times = {name: [1.0] for name in ("both_in_memory", "one_model", "stayed", "returned_stayed")}
    without = Switching(**times | {"room_for_one": [3.0], "bare_load": [2.0], "returned_stayed": []})
    measured = Switching(**times | {"room_for_one": [3.0], "bare_load": [2.0], "returned": [1.2]})
    assert (without.against_load, without.by_host_against_load) == (1.0, None)
    assert measured.by_host_against_load == pytest.approx(0.1)
    first, second = (table(found, 512, 20, is_full_size=True) for found in (without, measured))
    assert len(second.rows) == len(first.rows) + 2
    assert second.rows[-1][-1] == "0.10 bare loads"
    assert second.numbers()["switch_from_host_by_bare_load"] == 0.1
