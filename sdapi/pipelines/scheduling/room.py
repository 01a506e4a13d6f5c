"""How many samples the device has room for at once, learnt from what it had none for.

What is free differs from hour to hour, by the models that are in memory. So nothing of it is kept for the next start, and after a while,
or when something has left memory, a little more is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST_SHAPES = 256
_FIRST_PATIENCE = 64
"""Turns that wanted more, before more is tried again: a forward that runs out of memory has taken its time for nothing."""
_LONGEST_PATIENCE = 4096
_RAISED_BY = 4
"""More is the part of so many more."""


@dataclass(slots=True)
class _Limit:
    samples: int
    fitted: int = 0
    """The most that had room since the limit was set."""
    patience: int = _FIRST_PATIENCE
    wanted: int = 0
    """Turns that would have taken more, since it was set."""


class Room:
    """For shapes that ran out of memory (whatever name tells what is computed). For one thread."""

    def __init__(self) -> None:
        self._limits: dict[str, _Limit] = {}

    def most(self, shape: str, *, wanted: int, least: int) -> int:
        """How many of the `wanted` samples there is room for; never fewer than `least`. To be asked once a turn."""
        limit = self._limits.get(shape)
        if limit is None or limit.samples >= wanted:
            return wanted
        limit.wanted += 1
        if limit.wanted > limit.patience:
            limit.wanted = 0
            limit.samples += max(least, limit.samples // _RAISED_BY)
        return min(wanted, max(least, limit.samples))

    def is_short_of(self, shape: str, samples: int) -> bool:
        """Whether so many are known to have no room."""
        return shape in self._limits and samples > self._limits[shape].samples

    def ran_out(self, shape: str, samples: int) -> None:
        """So many had none: from now on at most half of them have, or what fitted meanwhile."""
        limit = self._limits.pop(shape, None)
        if limit is None:
            limit = _Limit(samples)
        else:
            limit.patience = min(_LONGEST_PATIENCE, 2 * limit.patience) if limit.fitted else limit.patience
        if limit.fitted >= samples:
            # There is less memory than there was then.
            limit.fitted = 0
        limit.samples, limit.wanted = max(1, limit.fitted or samples // 2), 0
        # Put in anew, so that the shapes that ran out longest ago come first.
        self._limits[shape] = limit
        while len(self._limits) > _MOST_SHAPES:
            del self._limits[next(iter(self._limits))]

    def fitted(self, shape: str, samples: int) -> None:
        """So many had room."""
        if (limit := self._limits.get(shape)) is not None:
            limit.fitted = max(limit.fitted, samples)
            limit.samples = max(limit.samples, samples)

    def memory_was_freed(self) -> None:
        """A little more is tried at the next turn."""
        for limit in self._limits.values():
            limit.wanted = limit.patience = _FIRST_PATIENCE
