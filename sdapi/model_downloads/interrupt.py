"""A way to ask a transfer to stop while it waits for the network, without cancelling the task that owns files and rows."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The transfer was asked to stop; what has come so far is kept."""


class Interrupt:
    """One per download; its owner awaits one thing at a time through `unless_set`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: asyncio.Task[Any] | None = None

    def set(self) -> None:
        """Make the wait at hand, and every later one, end in Interrupted."""
        self._is_set = True
        if self._waiting is not None:
            self._waiting.cancel()

    def is_set(self) -> bool:
        """Whether it was asked to stop."""
        return self._is_set

    def check(self) -> None:
        """Raises Interrupted once set."""
        if self._is_set:
            raise Interrupted

    async def unless_set(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which must hold nothing that a cancellation could break: network and timers only. Raises Interrupted."""
        if self.is_set():
            work.close()
            raise Interrupted
        task = asyncio.create_task(work)
        self._waiting = task
        try:
            return await task
        except asyncio.CancelledError:
            # Its own cancellation is the answer to `set`; one of the caller, who would not wait any longer, goes on.
            if self.is_set() and task.cancelled():
                raise Interrupted from None
            raise
        finally:
            self._waiting = None
