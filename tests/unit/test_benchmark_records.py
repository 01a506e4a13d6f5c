from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.record import LINES, append, line, tell
from benchmarks.table import NOT_MEASURED, Table

TABLE = Table("Speed", ("s", "ratio", "how"), (("ours", "1.50", "0.5", "well"), ("theirs", "3.00", NOT_MEASURED, "so so")))


def test_a_line_says_what_was_found_where_with_what_and_when() -> None:
    told = json.loads(line("speed", TABLE))

    assert told["benchmark"] == "speed"
    assert set(told["machine"]) >= {"cpu", "cores", "logical_cores", "memory_gb", "gpu"}
    assert told["versions"]["python"] == platform.python_version()
    assert set(told["versions"]) == {"python", "torch", "diffusers", "sdapi"}
    assert set(told) >= {"commit", "command", "date"}
    assert told["command"].startswith("python ")


def test_the_figures_are_the_cells_where_a_table_has_no_others() -> None:
    assert json.loads(line("speed", TABLE))["figures"] == {
        "ours": {"s": 1.5, "ratio": 0.5, "how": "well"},
        "theirs": {"s": 3.0, "ratio": None, "how": "so so"},
    }


def test_the_figures_are_those_a_table_has_beside_its_cells() -> None:
    table = Table("Speed", ("s",), (("ours", "1.50"),), figures={"median_s": 1.4987})
    assert json.loads(line("speed", table))["figures"] == {"median_s": 1.4987}
    assert "1.4987" not in table.markdown()


def test_a_benchmark_prints_its_table_and_one_line_and_adds_the_line_to_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    append(folder, "{}")
    tell("speed", TABLE, folder)

    printed = capsys.readouterr().out
    assert printed.startswith(TABLE.markdown())
    (recorded,) = [text for text in printed.splitlines() if text.startswith("{")]
    assert (folder / LINES).read_text(encoding="utf-8").splitlines() == ["{}", recorded]


def test_a_report_adds_a_line_of_every_benchmark_to_the_folder_and_tells_of_those_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def speed() -> Table:
        return TABLE

    def broken() -> Table:
        raise OSError("no room")

    monkeypatch.setattr(report, "_BENCHMARKS", (broken, speed))
    monkeypatch.setattr("sys.argv", ["report", "--out", str(tmp_path)])

    assert report.main() == 1
    (recorded,) = (tmp_path / LINES).read_text(encoding="utf-8").splitlines()
    assert json.loads(recorded)["figures"]["ours"]["s"] == 1.5
    printed = capsys.readouterr().out
    assert TABLE.markdown() in printed
    assert "could not be run" in printed
