"""Folders of whole pipelines: what is kept as it was saved, and what is told of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdapi.catalog import Catalog, ModelBroken
from sdapi.pipelines.families.whole import WholeModel
from sdapi.pipelines.loading.whole_loader import WholeComponents, load_whole

from .drawing import Studio, a_request, greatest_difference
from .tiny_whole import write_whole_folder

CPU = torch.device("cpu")


def a_folder(place: Path, **changes: Any) -> Path:
    return write_whole_folder(place / "checkpoints" / "flux", "flux", **changes)


def loaded(place: Path, *, dtype: torch.dtype = torch.float32, is_dtype_chosen: bool = False) -> WholeComponents:
    checkpoint = Catalog(place, aliases={}, embedded=None).get("flux")
    return load_whole(checkpoint, device=CPU, dtype=dtype, is_dtype_chosen=is_dtype_chosen)


def problem(place: Path) -> str:
    catalog = Catalog(place, aliases={}, embedded=None)
    (found,) = catalog.problems()
    assert catalog.ids() == []
    return found.sentence


def dtypes(parts: WholeComponents) -> set[torch.dtype]:
    networks = [part for part in parts.components.values() if isinstance(part, torch.nn.Module)]
    return {parameter.dtype for network in networks for parameter in network.parameters()}


@pytest.mark.parametrize(
    ("saved", "device", "is_chosen", "expected"),
    [
        (torch.float32, torch.float32, False, torch.float32),
        (torch.bfloat16, torch.float32, False, torch.bfloat16),
        (torch.bfloat16, torch.float32, True, torch.float32),
        (torch.float16, torch.float32, False, torch.float32),
        (torch.float32, torch.float16, False, torch.bfloat16),
        (torch.float16, torch.float16, False, torch.float16),
    ],
)
def test_weights_keep_bfloat16_unless_the_operator_chose(
    tmp_path: Path, saved: torch.dtype, device: torch.dtype, is_chosen: bool, expected: torch.dtype
) -> None:
    a_folder(tmp_path, dtype=saved)
    parts = loaded(tmp_path, dtype=device, is_dtype_chosen=is_chosen)
    # transformers keeps a few layers of T5 in float32, which float16 would overflow.
    assert expected in dtypes(parts)
    assert {parameter.dtype for parameter in parts.components["transformer"].parameters()} == {expected}


@pytest.mark.parametrize("family", ["flux", "qwen_image"])
def test_half_the_precision_is_drawn_as_by_the_stock_pipeline(tmp_path: Path, family: str) -> None:
    write_whole_folder(tmp_path / "checkpoints" / "flux", family, dtype=torch.bfloat16)
    studio = Studio({"flux": WholeModel("flux", "flux" if family == "flux" else "qwen_image", loaded(tmp_path))})
    asked = studio.ask(a_request(checkpoint="flux", prompt="a cat", guidance_scale=1, steps=3))
    studio.draw()
    stock = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "checkpoints" / "flux", dtype=torch.bfloat16, local_files_only=True)
    guidance = {"guidance_scale": 1.0} if family == "flux" else {"true_cfg_scale": 1.0}
    generator = torch.Generator().manual_seed(7)
    expected = stock("a cat", width=64, height=64, num_inference_steps=3, generator=generator, **guidance).images[0]
    assert greatest_difference(asked.image, expected) <= 1


def test_all_networks_count_and_nothing_of_the_files_is_needed_any_more(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    parts = loaded(tmp_path)
    on_disk = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert on_disk * 0.8 < parts.bytes < on_disk * 1.2
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in parts.components["transformer"].parameters())


def test_missing_weights_are_named(tmp_path: Path) -> None:
    file = a_folder(tmp_path) / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["proj_out.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelBroken, match=r"'flux' can't be loaded: transformer lacks weights such as proj_out\.weight\."):
        loaded(tmp_path)


def test_weights_of_another_shape_are_told_apart_from_a_crash(tmp_path: Path) -> None:
    config = a_folder(tmp_path) / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"joint_attention_dim": 64}))
    with pytest.raises(ModelBroken, match="The model 'flux' can't be loaded"):
        loaded(tmp_path)


def test_a_class_that_no_library_has_is_told_at_once(tmp_path: Path) -> None:
    index = a_folder(tmp_path) / "model_index.json"
    index.write_text(index.read_text().replace("FluxTransformer2DModel", "FluxTransformer9DModel"))
    with pytest.raises(ModelBroken, match="The model 'flux' can't be loaded"):
        loaded(tmp_path)


def test_pickled_weights_and_code_of_the_models_own_are_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    config = folder / "text_encoder" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"auto_map": {"AutoModel": "mine.Mine"}}))
    assert problem(tmp_path) == "text_encoder/config.json names code that comes with the model, which is never run."
    config.write_text(before)
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    assert "text_encoder/ holds only pickled weights" in problem(tmp_path)


@pytest.mark.parametrize("source", [["mine", "Mine"], [["diffusers"], "X"], ["diffusers"], ["diffusers", "X", "Y"]])
def test_parts_from_elsewhere_are_refused(tmp_path: Path, source: list[Any]) -> None:
    index = a_folder(tmp_path) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": source}))
    assert problem(tmp_path).startswith("Its part 'vae' is no class of diffusers or transformers")


@pytest.mark.parametrize("part", ["../elsewhere", "/etc"])
def test_a_part_never_becomes_a_path_elsewhere(tmp_path: Path, part: str) -> None:
    index = a_folder(tmp_path) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: ["diffusers", "AutoencoderKL"]}))
    assert problem(tmp_path).startswith(f"Its part {part!r} is no class")
