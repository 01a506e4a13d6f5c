"""What joint forwards take, learnt from those that were made; and how many rows are worth joining.

A device gains from company until its cores are busy: a tiny picture gains from sixteen rows, a large one on a CPU from none. Where it
gains no more, further rows only make everybody wait longer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sdapi.domain.drawing_speeds import DrawingSpeeds, Measured, seconds_between

_WORTH = 1.05
"""So much quicker per row a forward of twice the size must be."""
_WEIGHT = 0.2
"""Of the newest measurement."""
_WEIGHT_OF_QUICKER = 0.5
"""Of one that is quicker than those before: what holds up a forward is seldom the device, and never makes it quicker."""
_SETTLED_AFTER = 3
"""Measurements of which the quickest counts: in a first forward of its size, kernels are chosen and memory is fetched, and others are
tried first when many requests come at once, which keeps the machine busy."""
_MOST_SLOWER = 1.25
"""As how many times its usual length a forward counts at most: something else may have held up the machine."""
_MOST_SHAPES = 256
_ASKED_BEFORE_TRIED_AGAIN = 32
"""Turns. A batch that gains nothing costs little either: it does the work of two."""


@dataclass(slots=True)
class _Timed:
    seconds: float
    times: int = 1
    """It was measured, up to `_SETTLED_AFTER`."""

    @property
    def is_settled(self) -> bool:
        return self.times >= _SETTLED_AFTER

    def take(self, seconds: float) -> None:
        if self.is_settled:
            weight = _WEIGHT if seconds > self.seconds else _WEIGHT_OF_QUICKER
            self.seconds += weight * (min(seconds, _MOST_SLOWER * self.seconds) - self.seconds)
        else:
            self.seconds, self.times = min(seconds, self.seconds), self.times + 1


class StepProfile:
    """Seconds of a forward, by its shape (whatever name tells what is computed) and the samples in it. For one thread."""

    def __init__(self, known: Mapping[str, Mapping[int, float]] | None = None) -> None:
        """`known` is what `known` gave once, on the same device."""
        given = {} if known is None else known
        self._shapes = {
            shape: {samples: _Timed(seconds, _SETTLED_AFTER) for samples, seconds in counts.items()} for shape, counts in given.items()
        }
        self._unit_s: float | None = None
        self._asked: Counter[str] = Counter()
        self.learnt = 0
        """How often something was learnt; nothing has changed since somebody looked where this hasn't."""

    @property
    def known(self) -> dict[str, dict[int, float]]:
        """Everything learnt, by shape and number of samples."""
        return {shape: {samples: timed.seconds for samples, timed in sorted(counts.items())} for shape, counts in self._shapes.items()}

    def learn(self, shape: str, samples: int, seconds: float, *, units: float) -> None:
        """A forward has taken so long, of so much work in a unit that is alike for all shapes."""
        if samples < 1 or not seconds > 0:
            return
        self.learnt += 1
        # Put in anew, so that the shapes used longest ago come first.
        counts = self._shapes.pop(shape, {})
        self._shapes[shape] = counts
        if (timed := counts.get(samples)) is None:
            counts[samples] = _Timed(seconds)
        else:
            timed.take(seconds)
        self._unit_s = seconds / units if self._unit_s is None else self._unit_s + _WEIGHT * (seconds / units - self._unit_s)
        while len(self._shapes) > _MOST_SHAPES:
            gone = next(iter(self._shapes))
            del self._shapes[gone], self._asked[gone]

    def seconds(self, shape: str, samples: int) -> float | None:
        """How long a forward of so many samples takes: measured, or by those measured that are next to it; None where none was."""
        counts = self._shapes.get(shape)
        if not counts:
            return None
        if (timed := counts.get(samples)) is not None:
            return timed.seconds
        return seconds_between(sorted(counts), lambda measured: counts[measured].seconds, samples)

    def cost_s(self, shape: str, samples: int, *, units: float) -> float:
        """The same; where it was never measured, by what a unit has taken elsewhere. At least it tells more from less."""
        seconds = self.seconds(shape, samples)
        return units * (self._unit_s or 1.0) if seconds is None else seconds

    def worth(self, shape: str, *, least: int, start: int, limit: int) -> int:
        """How many samples are worth joining, from `least` (one row) to `limit`; `start` where nothing is known.

        The largest of those measured that makes a row quicker by a twentieth for every doubling. Sizes of which too little is known yet
        are tried by the way: the half of the smallest, and the double of the best until that has shown three times that it gains nothing;
        and again now and then, because something else may have held up the machine when it showed that.
        """
        counts = self._shapes.get(shape)
        if not counts:
            return start
        smallest = min(counts)
        if smallest > least:
            return max(least, smallest // 2)
        best, is_known_to_gain_nothing = _best(counts)
        self._asked[shape] += 1
        settles = is_known_to_gain_nothing and self._asked[shape] % _ASKED_BEFORE_TRIED_AGAIN
        return max(least, min(limit, best if settles else 2 * best))

    @property
    def speeds(self) -> DrawingSpeeds:
        """What is known now, for others than the thread that draws."""
        found: dict[str, Measured] = {}
        for shape, counts in self._shapes.items():
            best, is_known_to_gain_nothing = _best(counts)
            seconds = {samples: timed.seconds for samples, timed in counts.items()}
            found[shape] = Measured(seconds, best if is_known_to_gain_nothing else None)
        return DrawingSpeeds.of_names(found)


def _best(counts: Mapping[int, _Timed]) -> tuple[int, bool]:
    """How many samples are worth joining by what was measured, and whether more are known to gain nothing."""
    best = min(counts)
    best_rate = best / counts[best].seconds
    settled = sorted(samples for samples, timed in counts.items() if timed.is_settled)
    for samples in settled:
        rate = samples / counts[samples].seconds
        if samples > best and rate >= best_rate * _WORTH ** math.log2(samples / best):
            best, best_rate = samples, rate
    return best, bool(settled) and settled[-1] >= 2 * best
