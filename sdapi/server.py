"""uvicorn's server, told to wind down in our order on SIGTERM, and to begin anew when an administrator wants that."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import uvicorn

if TYPE_CHECKING:
    from sdapi.services import Services

_STANDARD_STREAMS = 2
"""Number of the last file every process is born with."""


class Server(uvicorn.Server):
    """On the first signal the services stop claiming and held calls answer `processing`; only then uvicorn waits for connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.restart_requested = False
        """Once `run` has returned: whether another one is to follow."""
        self.port = config.port
        """The real one, once the server has started."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        if self.started and (services := self._services()) is not None:
            self.port = next((listening.getsockname()[1] for server in self.servers for listening in server.sockets), self.port)
            services.restarts.offer(self._begin_restart)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn.Server."""
        self._begin_stop()
        super().handle_exit(sig, frame)

    def _begin_restart(self) -> None:
        self.restart_requested = True
        self._begin_stop()
        self.should_exit = True

    def _begin_stop(self) -> None:
        if (services := self._services()) is not None:
            services.begin_stop()

    def _services(self) -> Services | None:
        return getattr(getattr(self.config.app, "state", None), "services", None)


def begin_anew(*further_arguments: str) -> NoReturn:
    """Become a fresh process of the same id, started by the same command line; to be called when nothing is open any more."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):
        # A library's files that stayed open, such as a driver's, would keep what they hold (a GPU's memory) for as long as we run.
        for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            if number > _STANDARD_STREAMS:
                with suppress(OSError):
                    os.set_inheritable(number, False)  # noqa: FBT003
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], *further_arguments])  # noqa: S606 - our own command line
