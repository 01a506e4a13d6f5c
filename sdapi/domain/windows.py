"""Where the overlapping windows of a panorama lie: pure arithmetic, for drawing it and for telling what it will cost."""

from __future__ import annotations

from typing import Final

WINDOWS_OVER_A_PLACE: Final = 2
"""In how many windows beside one another every place is drawn. MultiDiffusion's own code takes 8, which costs four times as much."""


def window_starts(length: int, window: int, *, wraps: bool, over_a_place: int = WINDOWS_OVER_A_PLACE) -> tuple[int, ...]:
    """First cell of each window of `window` cells over `length` cells, evenly spread.

    With `wraps` what leaves at the end comes in at the start, so that no place is an edge; else the last window ends at the end.
    `window` is at most `length`.
    """
    stride = max(1, window // over_a_place)
    if wraps:
        count = -(-length // stride)
        return tuple(index * length // count for index in range(count))
    gaps = -(-(length - window) // stride)
    return tuple(index * (length - window) // max(1, gaps) for index in range(gaps + 1))
