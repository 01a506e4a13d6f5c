"""What the commands have in common: settings or a sentence, the end with a sentence, and a line that shows progress."""

from __future__ import annotations

import sys
import time
from typing import NoReturn

import typer
from pydantic import ValidationError

from sdapi.settings import Settings

REFUSED = 2
"""Exit code of a command that was asked for something it can't do."""

_EVERY_S = 0.2
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def settings_or_exit() -> Settings:
    """The settings; where one is not valid, its name is told and the command ends."""
    try:
        return Settings()
    except ValidationError as error:
        fail("\n".join(f"SDAPI_{'_'.join(str(part) for part in e['loc']).upper()}: {e['msg']}" for e in error.errors()))


def fail(sentence: str, *, code: int = REFUSED) -> NoReturn:
    """End the command with a sentence on standard error."""
    typer.echo(sentence, err=True)
    raise typer.Exit(code)


def size_words(size_bytes: int) -> str:
    """Such as "3.2 MiB"."""
    size, unit = float(size_bytes), 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


class ProgressLine:
    """One line on standard error that is written over, where that is a terminal; otherwise nothing is shown."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_shown = sys.stderr.isatty()
        self._shown_at_s = 0.0
        self._length = 0

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        """Say how far it is, a few times a second at most."""
        if not self._is_shown or time.monotonic() - self._shown_at_s < _EVERY_S:
            return
        self._shown_at_s = time.monotonic()
        done = size_words(done_bytes)
        share = f"{100 * done_bytes / total_bytes:.0f} %, {done} of {size_words(total_bytes)}" if total_bytes else done
        self._write(f"{self._what}: {share}")

    def end(self) -> None:
        """Take the line away."""
        if self._length:
            self._write("")
            typer.echo("\r", nl=False, err=True)

    def _write(self, line: str) -> None:
        typer.echo(f"\r{line:<{self._length}}", nl=False, err=True)
        self._length = len(line)
