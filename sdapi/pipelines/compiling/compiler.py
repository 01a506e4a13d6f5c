"""Compiled forwards as files: those there are, and one at a time in the making by a process of its own."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sdapi.pipelines.compiling.compile_spec import CompileSpec

_log = logging.getLogger(__name__)

_PROGRAM = "sdapi.pipelines.compiling.compile_process"
_MOST_FAILURES = 3
"""After so many there is probably no compiler on this machine."""
_TIME_TO_END_S = 10.0
_TOLD = 2000
"""Characters of what a process said last."""


@dataclass(frozen=True)
class _Making:
    spec: CompileSpec
    process: subprocess.Popen[str]
    said: IO[str]


class Compiler:
    """Of one device; for use from one thread."""

    def __init__(self, folder: Path, *, pays_after_s: float = 0.0, python: str = sys.executable) -> None:
        """Files are kept in `folder` from one start to the next. `python` runs the process.

        `pays_after_s` is how long forwards of a size must have taken together before one is made.
        """
        self.pays_after_s = pays_after_s
        self._folder = folder
        self._python = python
        self._making: _Making | None = None
        self._importing: threading.Thread | None = None
        self._failed: set[str] = set()

    def file(self, spec: CompileSpec, *, may_make: bool = True) -> Path | None:
        """The compiled forward; None where it isn't there, and then it is made unless another one is being made. Never waits.

        Without `may_make` it is only looked for.
        """
        target = self._folder / f"{spec.name}.pt2"
        self._look_after()
        if target.exists():
            return target if self._is_imported() else None
        if may_make and self._making is None and spec.name not in self._failed and len(self._failed) < _MOST_FAILURES:
            self._begin(spec, target)
        return None

    def _is_imported(self) -> bool:
        """Whether what opens the files is there: on the thread that draws, importing it would hold up everybody for a second or two."""
        if self._importing is None:
            self._importing = threading.Thread(target=importlib.import_module, args=("torch._inductor",), daemon=True)
            self._importing.start()
        return not self._importing.is_alive()

    def reject(self, spec: CompileSpec, reason: str) -> None:
        """The file is of no use."""
        _log.warning("a compiled forward can't be used", extra={"compiled": spec.name, "reason": reason})
        self._failed.add(spec.name)
        (self._folder / f"{spec.name}.pt2").unlink(missing_ok=True)

    def wait(self, timeout_s: float) -> None:
        """Until what is being made has ended, and can be opened."""
        if self._making is not None:
            self._making.process.wait(timeout_s)
        self._is_imported()
        if self._importing is not None:
            self._importing.join(timeout_s)
        self._look_after()

    def close(self) -> None:
        """End what is being made. Without it, that ends by itself when this process has ended."""
        if self._making is not None:
            self._making.process.send_signal(signal.SIGINT)
            try:
                self._making.process.wait(_TIME_TO_END_S)
            except subprocess.TimeoutExpired:
                self._making.process.kill()
                self._making.process.wait()
            self._making.said.close()
            self._making = None

    def _begin(self, spec: CompileSpec, target: Path) -> None:
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the process has ended
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(  # noqa: S603 - our own program; the path is an argument, no shell reads it
                [self._python, "-P", "-m", _PROGRAM, str(target.absolute()), str(os.getpid())],
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
            )
            assert process.stdin is not None  # noqa: S101 - asked for
            with process.stdin as told:
                told.write(spec.as_json)
        except OSError as error:
            said.close()
            self._fail(spec, repr(error))
            return
        self._making = _Making(spec, process, said)

    def _look_after(self) -> None:
        if self._making is None or (code := self._making.process.poll()) is None:
            return
        making, self._making = self._making, None
        with making.said as said:
            said.seek(0)
            if code:
                self._fail(making.spec, said.read()[-_TOLD:])
            else:
                _log.info("a forward was compiled", extra={"compiled": making.spec.name, "inputs": making.spec.inputs})

    def _fail(self, spec: CompileSpec, reason: str) -> None:
        self._failed.add(spec.name)
        _log.warning("a forward could not be compiled", extra={"compiled": spec.name, "reason": reason})


def can_compile() -> bool:
    """Whether there is a C++ compiler, as torch looks for one."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def _environment() -> dict[str, str]:
    """The process needs no secrets of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SDAPI_")}
    found = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": found}
