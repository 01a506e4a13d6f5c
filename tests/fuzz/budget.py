"""How many requests are sent: few in every run of the tests, thousands with `make fuzz`."""

from __future__ import annotations

import math
import os

from hypothesis import HealthCheck, Phase, settings

CASES = int(os.environ.get("SDAPI_FUZZ_CASES", "300"))

_DESCRIBED_SHARE = 0.7


def each_of(operations: int) -> int:
    """Cases for each of so many described calls: at least one that is as described and one that isn't."""
    return max(2, math.ceil(CASES * _DESCRIBED_SHARE / operations))


def undescribed(operations: int) -> int:
    """What is left for bodies that no description would allow."""
    return max(60, CASES - operations * each_of(operations))


def addresses() -> int:
    """For request lines, on top."""
    return max(60, CASES // 10)


def repeatable(cases: int) -> settings:
    """The same cases in every run."""
    return settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
