"""One budget for all that is kept in memory - models, control nets, LoRAs and the like: what was used longest ago leaves first."""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import WeakSet


class Shelf(Protocol):
    """A place that keeps things of one kind (see Residency)."""

    @property
    def size_bytes(self) -> int:
        """What everything on it takes."""
        ...

    @property
    def idle_since(self) -> int | None:
        """When the thing was used that nobody uses and that was used longest ago, by `Memory.now`; None where all are in use."""
        ...

    def drop_idlest(self) -> None:
        """Forget that thing."""
        ...

    def take_in(self) -> None:
        """Count what has come that nobody waits for any more, and forget what failed to come."""
        ...


class Memory:
    """What the shelves of one device share. Called from the thread that draws, but for `load_ended`."""

    def __init__(self, budget_bytes: int) -> None:
        """Things in use stay whatever the budget: a picture in flight can't lose its model."""
        self._budget_bytes = budget_bytes
        # Weak, because a model that leaves takes the shelf of its own LoRAs along.
        self._shelves: WeakSet[Shelf] = WeakSet()
        self._uses = 0
        self._let_go_bytes = 0
        self._load_ended = threading.Event()

    def now(self) -> int:
        """Later at every call."""
        self._uses += 1
        return self._uses

    def add(self, shelf: Shelf) -> None:
        """What is on it counts from now on."""
        self._shelves.add(shelf)

    def take_in(self) -> None:
        """To be called when nobody waits for anything: what jobs asked for that were cancelled meanwhile counts from now on."""
        for shelf in list(self._shelves):
            shelf.take_in()
        self.keep_to_budget()

    def keep_to_budget(self) -> None:
        """Let things leave, from whatever shelf, until the rest fits or is in use."""
        while sum(one.size_bytes for one in self._shelves) > self._budget_bytes:
            idle = [(since, one) for one in self._shelves if (since := one.idle_since) is not None]
            if not idle:
                return
            min(idle, key=lambda pair: pair[0])[1].drop_idlest()

    def let_go(self, size_bytes: int) -> None:
        """So much was forgotten."""
        self._let_go_bytes += size_bytes

    def take_let_go(self, at_least_bytes: int) -> bool:
        """Whether so much was forgotten since this last said yes: worth looking for what of it still lingers."""
        if self._let_go_bytes < at_least_bytes:
            return False
        self._let_go_bytes = 0
        return True

    def load_ended(self) -> None:
        """Something has come into memory, or failed to; from any thread."""
        self._load_ended.set()

    def wait_for_load(self, timeout_s: float) -> None:
        """Return when a load has ended since this was last called, or after the timeout."""
        self._load_ended.wait(timeout_s)
        self._load_ended.clear()
