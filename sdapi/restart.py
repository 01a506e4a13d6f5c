"""Beginning anew on request: the one who asks and the server that can do it know each other only through this."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sdapi.domain.errors import NotAvailable

_log = logging.getLogger(__name__)


class Restarts:
    """Takes requests to restart once a server has offered to."""

    def __init__(self) -> None:
        self._begin: Callable[[], None] | None = None

    def offer(self, begin: Callable[[], None]) -> None:
        """From now on `begin` is called for a restart; it only begins one, so that the answer still reaches who asked."""
        self._begin = begin

    def check(self) -> None:
        """Raises NotAvailable where nobody could restart this process."""
        if self._begin is None:
            raise NotAvailable("This server can't restart itself, because it was not started by `sdapi serve`.")

    def request(self) -> None:
        """Stop as on SIGTERM, then begin anew as the same process. Raises NotAvailable."""
        self.check()
        assert self._begin is not None  # noqa: S101 - checked
        _log.info("restart requested")
        self._begin()
