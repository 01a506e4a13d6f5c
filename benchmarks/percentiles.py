"""What most had to wait for, and what nearly all had."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence


def p50(values: Sequence[float]) -> float:
    """The value that half are above."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """The value that one in twenty is above."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


PERCENTILES: Mapping[str, Callable[[Sequence[float]], float]] = {"p50": p50, "p95": p95}
