from __future__ import annotations

import pytest
from PIL import Image

from benchmarks.quantized import compare, embedded, ssim


def test_what_is_in_eight_bits_is_held_against_the_same_pictures_without() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: pip install '.[quantized]'")

    off, int8 = compare(embedded(), [64], 2, 1, ["int8"], dtype="float32")

    assert (off.is_quantized, int8.is_quantized) == (False, True)
    assert off.psnr_db == [99.0, 99.0]
    assert all(40 < one < 99 for one in int8.psnr_db)
    assert all(0.99 < one < 1 for one in int8.ssim)
    assert int8.model_bytes < off.model_bytes
    assert min(*int8.step_s, *off.step_s, int8.load_s) > 0


def test_structural_similarity_is_one_for_the_same_and_little_for_strangers() -> None:
    one, other = (Image.effect_noise((64, 64), sigma) for sigma in (40, 41))
    assert ssim(one, one) == pytest.approx(1)
    assert ssim(one, other) < 0.3
    assert ssim(Image.new("L", (64, 64), 100), Image.new("L", (64, 64), 110)) > 0.98
