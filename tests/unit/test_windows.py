"""The windows of a panorama leave no place out, and are spread evenly."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sdapi.domain.windows import window_starts

SIZES = [(128, 64), (130, 64), (100, 96), (64, 64), (9, 9), (9, 1), (200, 96)]


@pytest.mark.parametrize(("length", "window"), SIZES)
def test_wrapping_windows_cover_every_place_about_equally_often(length: int, window: int) -> None:
    starts = window_starts(length, window, wraps=True)
    over = [0] * length
    for start in starts:
        for place in range(start, start + window):
            over[place % length] += 1
    assert min(over) >= (1 if window == 1 else 2)
    assert max(over) - min(over) <= 1
    assert starts[0] == 0


@pytest.mark.parametrize(("length", "window"), SIZES)
def test_other_windows_begin_at_the_start_and_end_at_the_end_without_a_gap(length: int, window: int) -> None:
    starts = window_starts(length, window, wraps=False)
    assert (starts[0], starts[-1]) == (0, length - window)
    assert all(0 < later - earlier <= max(1, window // 2) for earlier, later in pairwise(starts))


def test_twice_as_wide_takes_four_windows_in_the_round_and_three_without() -> None:
    assert window_starts(128, 64, wraps=True) == (0, 32, 64, 96)
    assert window_starts(128, 64, wraps=False) == (0, 32, 64)
