"""Weights are read as they are stored and converted on the way to the device: the same numbers as the libraries', and nothing mapped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdapi.catalog import Catalog
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.loading.mapped_weights import common_dtype, place, stored_dtype

from .tiny_checkpoint import write_diffusers_folder, write_single_file

CPU = torch.device("cpu")
FORMATS = (torch.float16, torch.bfloat16, torch.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder holding one model in both layouts, in float32."""
    models = tmp_path_factory.mktemp("models")
    folder = write_diffusers_folder(models / "checkpoints" / "folder")
    write_single_file(folder, models / "checkpoints" / "file.safetensors")
    shutil.copytree(folder, models / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    return models


def saved_as(models: Path, dtype: torch.dtype) -> None:
    """Rewrite all weights of the folder in another number format."""
    for file in (models / "checkpoints").rglob("*.safetensors"):
        tensors = load_file(file)
        save_file({name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, file)


def load(models: Path, model_id: str, dtype: torch.dtype) -> UnetComponents:
    checkpoint = Catalog(models, aliases={}, embedded=None).get(model_id)
    return load_checkpoint(checkpoint, device=CPU, dtype=dtype, configs_dir=models / "configs")


def weights(parts: UnetComponents) -> list[torch.Tensor]:
    return [weight for network in (parts.unet, parts.vae, *parts.text_encoders) for weight in network.parameters()]


@pytest.mark.parametrize("model_id", ["folder", "file"])
@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("asked", FORMATS)
def test_what_is_stored_in_one_format_is_the_same_in_another_and_needs_the_file_no_more(
    tiny: Path, tmp_path: Path, model_id: str, stored: torch.dtype, asked: torch.dtype
) -> None:
    models = shutil.copytree(tiny, tmp_path / "models")
    original = load(models, model_id, torch.float32)
    saved_as(models, stored)
    loaded = load(models, model_id, asked)
    for weight, before in zip(weights(loaded), weights(original), strict=True):
        assert weight.dtype == asked
        assert torch.equal(weight, before.to(stored).to(asked))
        assert weight.untyped_storage().resizable(), "it is mapped from the file"
        assert weight.is_contiguous(memory_format=torch.channels_last if weight.dim() == 4 else torch.contiguous_format)


@pytest.mark.parametrize("model_id", ["folder", "file"])
def test_a_weight_of_more_bits_than_the_others_keeps_them(tiny: Path, tmp_path: Path, model_id: str) -> None:
    models = shutil.copytree(tiny, tmp_path / "models")
    original = load(models, model_id, torch.float32)
    exact = original.unet.conv_out.weight
    saved_as(models, torch.float16)
    for file in (models / "checkpoints").rglob("*.safetensors"):
        tensors = load_file(file)
        precise = {name: exact.contiguous() for name in tensors if name in ("conv_out.weight", "model.diffusion_model.out.2.weight")}
        save_file(tensors | precise, file)
    assert torch.equal(load(models, model_id, torch.float32).unet.conv_out.weight, exact)


def test_the_format_of_a_file_is_told_by_its_header_and_integers_and_empty_marks_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    numbers = {"a": torch.ones(2, dtype=torch.bfloat16), "ids": torch.arange(3)}
    save_file(numbers, file)
    assert stored_dtype([file]) == torch.bfloat16
    assert common_dtype([*numbers.values(), torch.empty(0)]) == torch.bfloat16
    save_file({**numbers, "b": torch.ones(2)}, file)
    assert stored_dtype([file]) is None
    assert common_dtype([*numbers.values(), torch.ones(2)]) is None
    save_file({"c": torch.ones(2, dtype=torch.float64)}, file)
    assert stored_dtype([file]) is None


def test_what_is_in_its_place_is_not_copied_again() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 4))
    place(network, CPU, torch.float32, channels_last=True)
    before = [weight.data_ptr() for weight in network.parameters()]
    place(network, CPU, torch.float32, channels_last=True)
    assert [weight.data_ptr() for weight in network.parameters()] == before
