"""What a model will take is told by its files before they are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sdapi.catalog import Assets, Catalog
from sdapi.domain.models_in_memory import film_entry
from sdapi.pipelines.forwards.number_formats import NumberFormats
from sdapi.pipelines.loading.loader import load_checkpoint
from sdapi.pipelines.memory.expected_sizes import ExpectedSizes

from .tiny_checkpoint import write_diffusers_folder, write_single_file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_diffusers_folder(tmp_path_factory.mktemp("models") / "checkpoints" / "folder")
    write_single_file(folder, folder.parent / "file.safetensors")
    shutil.copytree(folder, folder.parent.parent / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder.parent.parent


def expected(models: Path, predicting: torch.dtype, pictures: torch.dtype) -> ExpectedSizes:
    formats = NumberFormats(predicting, pictures, pictures, is_chosen=True)
    return ExpectedSizes(Catalog(models, aliases={}, embedded=None), Assets(models), formats)


@pytest.mark.parametrize("model_id", ["folder", "file"])
@pytest.mark.parametrize("predicting", [torch.float32, torch.bfloat16])
def test_it_is_what_the_model_takes_once_it_is_there(models: Path, model_id: str, predicting: torch.dtype) -> None:
    checkpoint = Catalog(models, aliases={}, embedded=None).get(model_id)
    cpu = torch.device("cpu")
    parts = load_checkpoint(checkpoint, device=cpu, dtype=predicting, vae_dtype=torch.float32, configs_dir=models / "configs")
    assert expected(models, predicting, torch.float32).model(model_id) == pytest.approx(parts.bytes, rel=0.02)


def test_nothing_is_expected_of_what_is_not_there(models: Path) -> None:
    sizes = expected(models, torch.float32, torch.float32)
    assert [sizes.model("gone"), sizes.model(film_entry("gone")), sizes.control_net("gone"), sizes.upscaler("gone")] == [0, 0, 0, 0]
