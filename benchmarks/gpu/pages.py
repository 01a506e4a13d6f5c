"""The folder that the figures go into: a report to read, their lines of JSON, and whatever is too long for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..record import append, line
from ..table import Table

REPORT = "report.md"


@dataclass(frozen=True)
class Pages:
    """Every finding is written at once, so that whatever is cut short leaves what was found before."""

    out: Path

    def add(self, benchmark: str, table: Table) -> None:
        """A table with its line of JSON."""
        self.say(table.markdown())
        append(self.out, line(benchmark, table))

    def say(self, text: str) -> None:
        """A paragraph of the report, printed too."""
        self.out.mkdir(parents=True, exist_ok=True)
        print(f"{text}\n", flush=True)
        with (self.out / REPORT).open("a", encoding="utf-8") as report:
            report.write(f"{text}\n\n")

    def keep(self, name: str, text: str) -> None:
        """A file of its own."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / name).write_text(text, encoding="utf-8")
