"""One budget for all that is kept in memory - models, control nets, LoRAs and the like: what was used longest ago leaves first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

from sdapi.pipelines.memory.host_tier import HostTier

WORTH_RELEASING_BYTES: Final = 2**26
"""Looking for what lingers of things that left isn't worth the while for less."""


class Shelf(Protocol):
    """A place that keeps things of one kind (see Residency)."""

    @property
    def size_bytes(self) -> int:
        """What everything on it takes."""
        ...

    @property
    def coming_bytes(self) -> int:
        """What the things on their way to it will take, as far as that is known."""
        ...

    @property
    def idle_since(self) -> int | None:
        """When the thing was used that nobody uses and that was used longest ago, by `Memory.now`; None where all are in use."""
        ...

    @property
    def idle_since_s(self) -> float | None:
        """The same by `Memory.clock`."""
        ...

    def drop_idlest(self) -> None:
        """Forget that thing."""
        ...

    def drop_unused(self, since_s: float) -> None:
        """Forget whatever nobody has used since then, by `Memory.clock`."""
        ...

    def take_in(self) -> None:
        """Count what has come that nobody waits for any more, and forget what failed to come."""
        ...


class Memory:
    """What the shelves of one device share. Called from the thread that draws, but for `load_ended`, `let_go` and `has_left`."""

    def __init__(
        self,
        budget_bytes: int,
        *,
        unload_after_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        release: Callable[[], None] = lambda: None,
        host: HostTier | None = None,
    ) -> None:
        """Things in use stay whatever the budget: a picture in flight can't lose its model.

        What nobody has used for `unload_after_s` leaves, too; 0: it stays. `release` gives back to the system what things that left
        still hold; it may be called on other threads where there is a `host`, in whose memory models wait that left. None: they are
        loaded again.
        """
        self.host = host
        self._budget_bytes = budget_bytes
        self._unload_after_s = unload_after_s
        self.clock = clock
        self._release = release
        # Weak, because a model that leaves takes the shelf of its own LoRAs along.
        self._shelves: WeakSet[Shelf] = WeakSet()
        self._uses = 0
        self._let_go_bytes = 0
        self._counting = threading.Lock()
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
        if self.expires_in_s == 0:
            for shelf in list(self._shelves):
                shelf.drop_unused(self.clock() - self._unload_after_s)
        self.keep_to_budget()

    @property
    def expires_in_s(self) -> float | None:
        """Seconds until `take_in` has something to let go because nobody used it for so long; None where nothing will be."""
        if not self._unload_after_s:
            return None
        idle_since_s = min((since_s for one in self._shelves if (since_s := one.idle_since_s) is not None), default=None)
        return None if idle_since_s is None else max(0.0, idle_since_s + self._unload_after_s - self.clock())

    def make_room(self) -> None:
        """To be called before something comes that a shelf tells of: idle things leave, and have really left when this returns.

        But for those that will wait in the host's memory: they are on their way, and the load waits for them (`HostTier.wait_until_left`).
        """
        self.keep_to_budget()
        if self.take_let_go(WORTH_RELEASING_BYTES):
            self._release()

    def keep_to_budget(self) -> None:
        """Let things leave, from whatever shelf, until the rest and what is coming fits, or all that is left is in use."""
        while sum(one.size_bytes + one.coming_bytes for one in self._shelves) > self._budget_bytes:
            idle = [(since, one) for one in self._shelves if (since := one.idle_since) is not None]
            if not idle:
                return
            min(idle, key=lambda pair: pair[0])[1].drop_idlest()

    def let_go(self, size_bytes: int) -> None:
        """So much was forgotten; from any thread."""
        with self._counting:
            self._let_go_bytes += size_bytes

    def has_left(self, size_bytes: int) -> None:
        """So much has left for the host's memory by now; on the thread on which it did."""
        self.let_go(size_bytes)
        if self.take_let_go(WORTH_RELEASING_BYTES):
            self._release()

    def clear_host(self) -> int:
        """Forget what waits in the host's memory; how many bytes that freed."""
        return 0 if self.host is None else self.host.clear()

    def close_host(self) -> None:
        """Let nothing wait there any more; what is on its way is given up."""
        if self.host is not None:
            self.host.close()

    def take_let_go(self, at_least_bytes: int) -> bool:
        """Whether so much was forgotten since this last said yes: worth looking for what of it still lingers."""
        with self._counting:
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
