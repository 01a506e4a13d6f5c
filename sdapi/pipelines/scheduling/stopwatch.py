"""How long the device takes for what it is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

ResultT = TypeVar("ResultT")


class Stopwatch(Protocol):
    """For the thread that draws."""

    def timed(self, run: Callable[[], ResultT], told: Callable[[float], None]) -> ResultT:
        """What `run` gives; `told` gets the seconds, at once or by a later call of this or of `collect`. Raises what `run` raises."""
        ...

    def collect(self) -> None:
        """Tell what has become known."""
        ...


class WallStopwatch:
    """For a device that has done its work when the call returns."""

    def timed(self, run: Callable[[], ResultT], told: Callable[[float], None]) -> ResultT:
        """See Stopwatch."""
        started = time.perf_counter()
        result = run()
        told(time.perf_counter() - started)
        return result

    def collect(self) -> None:
        """See Stopwatch: nothing is left."""
