"""Programs that some tests need beside Python: where one is missing its tests are skipped loudly, or fail if that is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

import pytest


@dataclass(frozen=True)
class OutsideProgram:
    """One program, or a few that go together."""

    tests: str
    """Heading of what is skipped without it."""
    missing: str
    """What isn't here, and how to get it."""
    required: str
    """The variable that, set to 1, makes its absence a failure."""
    untried: str
    """What nobody knows when its tests were skipped."""

    def give_up(self, detail: str = "") -> NoReturn:
        """End the test that asked for it."""
        missing = f"{self.missing}{detail and f': {detail}'}"
        if os.environ.get(self.required) == "1":
            pytest.fail(f"{missing}, and {self.required} asks for it")
        pytest.skip(missing)

    def report(self, terminal: pytest.TerminalReporter) -> None:
        """Say at the end of the run, so that nobody misses it, how many tests were skipped."""
        skipped = [report for report in terminal.getreports("skipped") if self.missing in str(report.longrepr)]
        if skipped:
            heading = f"{self.tests} SKIPPED"
            terminal.section(heading, sep="!", red=True, bold=True)
            terminal.line(f"{heading}: {len(skipped)} of them, because {self.missing}. {self.untried}")
