from __future__ import annotations

import numpy as np
import pytest

from benchmarks.formats import compare, psnr_db


def test_every_format_is_held_against_float32() -> None:
    exact, other = compare([64], 2, 1, ["bfloat16"])

    assert (exact.format, other.format) == ("float32", "bfloat16")
    assert exact.mean_apart == 0
    assert exact.psnr_db == [99.0, 99.0]
    assert 0 < other.mean_apart < 10
    assert all(20 < one < 99 for one in other.psnr_db)
    assert exact.per_s > 0 < other.per_s


def test_the_signal_to_noise_ratio_is_that_of_the_mean_square() -> None:
    assert psnr_db(np.full((4, 4, 3), 25.5)) == pytest.approx(20)
    assert psnr_db(np.zeros((4, 4, 3))) == 99
