"""What a benchmark found, as a Markdown table and in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    figures: Mapping[str, object] | None = None
    """The same for programs: what `json` can write, numbers with their unit in the name. None: the cells themselves will do."""

    def markdown(self) -> str:
        """The table under a heading, its columns aligned for terminals too."""
        lines = [("", *self.columns), *self.rows]
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
        rule = tuple("-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths))
        body = "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))
        return "\n\n".join(part for part in (f"## {self.title}", body, self.note) if part)

    def numbers(self) -> Mapping[str, object]:
        """`figures`, or the cells by row and column: numbers where a cell is one, None where nothing was measured."""
        if self.figures is not None:
            return self.figures
        return {name: dict(zip(self.columns, map(_number, cells), strict=True)) for name, *cells in self.rows}


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))]
    return f"| {' | '.join(padded)} |"


def _number(cell: str) -> float | str | None:
    if cell == NOT_MEASURED:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
