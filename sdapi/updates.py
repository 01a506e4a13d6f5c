"""The operator's own way to a newer version: a command that is run on request, and a restart when it has succeeded."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import IO

from sdapi.domain.errors import NotAvailable

from .restart import Restarts

_log = logging.getLogger(__name__)

_OUTPUT_LOGGED_BYTES = 16 * 2**10
_TERMINATED_FOR_S = 5.0
"""How long a command that is asked to end may take before it is killed."""


class Updates:
    """Runs the command, one at a time, in a session of its own and without a shell. Whatever it prints goes to the log."""

    def __init__(self, *, command: str | None, timeout_s: float, restarts: Restarts) -> None:
        """Raises ValueError for a command whose quotes don't match."""
        self._arguments = shlex.split(command or "")
        self._timeout_s = timeout_s
        self._restarts = restarts
        self._work: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._problem: str | None = None

    @property
    def under_way(self) -> bool:
        """Whether the command is running."""
        return self._work is not None and not self._work.done()

    def problem(self) -> str | None:
        """Why the last update failed, or None."""
        return self._problem

    def start(self) -> None:
        """Run the command, and restart the server when it has succeeded; returns at once. Raises NotAvailable."""
        if not self._arguments:
            raise NotAvailable("No update command is set on this server: its operator names one in SDAPI_UPDATE_COMMAND.")
        self._restarts.check()
        if self.under_way:
            raise NotAvailable("An update is under way already.")
        self._work = asyncio.create_task(self._run(), name="update")

    async def stop(self) -> None:
        """Return when no command runs any more; one that does is asked to end, and killed when it doesn't."""
        self._stopping = True
        if self._work is not None:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self._work], timeout=_TERMINATED_FOR_S)
            self._signal(signal.SIGKILL)
            await self._work

    async def _run(self) -> None:
        self._problem = None
        _log.info("update command begins", extra={"program": self._arguments[0]})
        began_s = time.monotonic()
        try:
            exit_code, output = await asyncio.to_thread(self._execute)
        except OSError as failure:
            self._problem = f"the update command can't be run: {failure.strerror}"
            _log.exception("the update command can't be run")
            return
        told = {"exit_code": exit_code, "seconds": round(time.monotonic() - began_s, 1), "output": output}
        if exit_code != 0:
            self._problem = f"the update command ended with exit code {exit_code}" if exit_code is not None else "it took too long"
            _log.error("the update command failed, so the server goes on as it is", extra=told)
            return
        _log.info("update command succeeded", extra=told)
        if not self._stopping:
            self._restarts.request()

    def _execute(self) -> tuple[int | None, str]:
        """Exit code and the end of the output; None for a command that took too long. Raises OSError."""
        # A file, not a pipe: a service that the command starts in the background would keep a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            with subprocess.Popen(  # noqa: S603 - the operator's own command
                self._arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            ) as self._process:
                if self._stopping:
                    self._signal(signal.SIGTERM)
                try:
                    exit_code: int | None = self._process.wait(self._timeout_s)
                except subprocess.TimeoutExpired:
                    self._signal(signal.SIGKILL)
                    exit_code = None
            return exit_code, _end_of(output)

    def _signal(self, number: signal.Signals) -> None:
        """To the command and all that it has started."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _end_of(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _OUTPUT_LOGGED_BYTES))
    return output.read().decode(errors="replace").strip()
