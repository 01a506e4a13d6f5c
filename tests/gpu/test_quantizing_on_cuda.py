"""On a CUDA device: weights in eight bits draw the same pictures, recorded, from less of the device's memory."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipe.detector import detect
from torch import nn

from benchmarks.formats import psnr_db
from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.domain.quantization import EightBits
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.quantizing.eight_bits import quantized, ways
from sdapi.pipelines.quantizing.quantizer import Quantizer, relative_error
from sdapi.pipelines.quantizing.stored_weights import is_quantized
from sdapi.pipelines.quantizing.way_choice import in_order, measured_seconds
from tests.pipelines.drawing import Studio, a_request

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
pytest.importorskip("torchao", reason="torchao is not installed: pip install '.[quantized]'")

CUDA = torch.device("cuda")
ALIKE_DB = {torch.float16: 35.0, torch.bfloat16: 25.0}
"""Between pictures of one number format; in bfloat16 rounding alone comes to 27 dB for the least of some pictures."""
LAYER_ERROR = {"int8": 0.02, "fp8": 0.06}
"""Inputs in eight bits included."""


def the_demo(dtype: torch.dtype) -> UnetComponents:
    checkpoint = Catalog(Path("nowhere"), aliases={}, embedded=embedded_model_dir()).get("demo")
    return load_checkpoint(checkpoint, device=CUDA, dtype=dtype, vae_dtype=torch.float16)


def drawn(parts: UnetComponents) -> list[Image.Image]:
    """Eight at once, often enough to be recorded."""
    studio = Studio({"demo": UnetModel("demo", parts)})
    jobs = [studio.ask(a_request(seed=seed, width=128, height=128, steps=20)) for seed in range(8)]
    studio.draw()
    return [job.image for job in jobs]


@cache
def expected(dtype: torch.dtype) -> list[Image.Image]:
    return drawn(the_demo(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_pictures_are_those_of_the_unchanged_model(bits: EightBits, dtype: torch.dtype) -> None:
    parts = Quantizer(bits).unet("demo", the_demo(dtype))
    assert is_quantized(parts.unet)
    for picture, before in zip(drawn(parts), expected(dtype), strict=True):
        assert psnr_db(np.asarray(picture, np.float64) - np.asarray(before, np.float64)) > ALIKE_DB[dtype]
        found = detect(picture)
        assert (found.background, found.colour, found.shape) == ("blue", "red", "circle")


@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_the_device_has_the_bytes_that_were_saved(bits: EightBits) -> None:
    def taken_bytes() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    start = taken_bytes()
    before = the_demo(torch.float16)
    plain_bytes = taken_bytes() - start
    after = Quantizer(bits).unet("demo", before)
    saved_bytes = before.bytes - after.bytes
    assert saved_bytes > 0
    assert plain_bytes - (taken_bytes() - start) > 0.8 * saved_bytes


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_every_way_that_is_tried_multiplies(bits: EightBits, dtype: torch.dtype) -> None:
    weight = torch.randn(1280, 1280, device=CUDA, dtype=dtype) / 36
    inputs = torch.randn(2, 77, 1280, device=CUDA, dtype=dtype)
    plain = nn.functional.linear(inputs.float(), weight.float())
    able = ways(bits, device=CUDA, dtype=dtype)
    for way in able:
        said = nn.functional.linear(inputs, quantized(weight, way)).float()
        assert relative_error([plain], [said], [float(plain.norm())]) < LAYER_ERROR[bits], way
    assert in_order(able, weight, measured_seconds)[-1] == able[-1]
