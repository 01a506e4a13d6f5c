"""In which format a device draws, and that the format does not show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recipe.detector import detect

from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.number_formats import number_formats
from sdapi.pipelines.loading.loader import load_checkpoint

from .drawing import Studio, a_request, greatest_difference

CPU = torch.device("cpu")


def test_a_cpu_draws_in_bfloat16_where_it_multiplies_that(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=features: found)
        formats = number_formats("auto", CPU)
        assert (formats.predicting, formats.pictures, formats.is_chosen) == (expected, torch.float32, False)


def test_the_operator_has_the_last_word_but_pixels_never_have_eight_bits_only() -> None:
    for name in ("float32", "bfloat16", "float16"):
        formats = number_formats(name, CPU)
        assert (formats.predicting, formats.pictures, formats.is_chosen) == (getattr(torch, name), torch.float32, True)
    assert number_formats("bfloat16", torch.device("cuda")).pictures == torch.float16
    assert number_formats("auto", torch.device("cuda")).predicting == torch.float16


def the_demo(dtype: torch.dtype) -> UnetModel:
    folder = embedded_model_dir()
    assert folder is not None
    checkpoint = Catalog(folder.parent, aliases={}, embedded=folder).get("demo")
    return UnetModel("demo", load_checkpoint(checkpoint, device=CPU, dtype=dtype, vae_dtype=torch.float32))


def test_bfloat16_draws_the_picture_that_float32_draws() -> None:
    pictures = {}
    for dtype in (torch.float32, torch.bfloat16):
        studio = Studio({"demo": the_demo(dtype)})
        jobs = [studio.ask(a_request(seed=seed, width=128, height=128, steps=12)) for seed in range(3)]
        studio.draw()
        pictures[dtype] = [job.image for job in jobs]
    for one, other in zip(*pictures.values(), strict=True):
        error = np.mean((np.asarray(one, dtype=float) - np.asarray(other, dtype=float)) ** 2)
        assert 10 * math.log10(255**2 / error) > 34
        found = detect(other)
        assert (found.background, found.colour, found.shape) == ("blue", "red", "circle")


def test_in_bfloat16_a_picture_drawn_in_company_is_the_one_drawn_alone() -> None:
    model = the_demo(torch.bfloat16)
    together = Studio({"demo": model})
    first = together.ask(a_request(seed=1, width=64, height=64, steps=6))
    for seed in range(2, 5):
        together.ask(a_request(seed=seed, width=64, height=64, steps=seed + 3))
    together.draw()
    alone = Studio({"demo": model})
    lone = alone.ask(a_request(seed=1, width=64, height=64, steps=6))
    alone.draw()
    # Sums in another order differ in the eighth bit, here and there.
    assert greatest_difference(first.image, lone.image) <= 16
