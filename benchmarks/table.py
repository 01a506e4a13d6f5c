"""What a benchmark found, as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOT_MEASURED = "–"


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row says what was measured, the others are under `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """How it was measured, where the rows don't say."""

    def markdown(self) -> str:
        """The table under a heading, its columns aligned for terminals too."""
        lines = [("", *self.columns), *self.rows]
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
        rule = tuple("-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths))
        body = "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))
        return "\n\n".join(part for part in (f"## {self.title}", body, self.note) if part)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))]
    return f"| {' | '.join(padded)} |"
