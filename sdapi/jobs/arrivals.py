"""What else is likely to come while a job waits: the near future is expected to be like the near past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .estimates import Shape
from .queue_model import Demand

WINDOW_S: Final = 30.0
"""How far back arrivals are counted."""
_PAUSE: Final = 1.5
"""After so many usual gaps without a job, the stream is believed in less and less: it may have been a burst that is over."""
_NEGLIGIBLE: Final = 1e-3
_MOST: Final = 100


@dataclass(frozen=True)
class Arrival:
    """A job that came `age_s` ago."""

    age_s: float
    shape: Shape
    client: int = 0


def expected(arrivals: Sequence[Arrival], *, observed_s: float = math.inf) -> list[Demand]:
    """The jobs to reckon with besides those that are there, with ids below zero.

    A stream is continued at its rate, evenly. Nobody knows where a burst ends, so it counts as no more than the stream it makes over
    the window: to expect as many again as have just come was wrong more often. `observed_s` says for how long back the arrivals
    given are all there were.
    """
    window_s = min(WINDOW_S, observed_s)
    seen = sorted((one for one in arrivals if one.age_s <= window_s), key=lambda one: one.age_s)
    # The first is the one on whose account somebody asks: that it is there says nothing about others.
    if len(seen) < 2 or window_s <= 0:
        return []
    rate = (len(seen) - 1) / window_s
    rate *= math.exp(-max(0.0, rate * seen[0].age_s - _PAUSE))
    if rate * WINDOW_S < _NEGLIGIBLE:
        return []
    again = (seen[i % len(seen)] for i in range(_MOST))
    return [Demand(-1 - i, one.shape, one.client, at_s=(i + 1) / rate) for i, one in enumerate(again)]
