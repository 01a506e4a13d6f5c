"""Stable Diffusion 2.x and XL are loaded from folders and single files alike, offline, as what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdapi.catalog import Catalog, ModelBroken
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS, shipped_for
from sdapi.pipelines.samplers.prediction_types import predicts_noise

from .drawing import Studio, a_request, an_img2img_request, demo_parts
from .test_equals_diffusers import an_init_image
from .tiny_checkpoint import ldm_state, write_single_file
from .tiny_families import SD2, SD2_V, XL, Kind, copy_of, load, models_dir

CPU = torch.device("cpu")


def load_file(kind: Kind, models: Path, changes: dict[str, Any] | None = None, sidecar: str = "") -> UnetComponents:
    """The tiny model's weights as a single file, described by the folder's own configuration."""
    folder = models_dir(kind) / "checkpoints" / "tiny"
    (models / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_single_file(folder, models / "checkpoints" / "file.safetensors", changes)
    if sidecar:
        (models / "checkpoints" / "file.toml").write_text(sidecar)
    configs = models / "configs"
    shutil.copytree(folder, configs, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    listed = Catalog(models, aliases={}, embedded=None)
    assert listed.problems() == []
    assert listed.get("file").family == kind.family
    return load_checkpoint(listed.get("file"), device=CPU, dtype=torch.float32, configs_dir=configs)


@pytest.mark.parametrize("kind", [SD2_V, XL, Kind("sdxl", in_channels=9)])
def test_a_single_file_gives_exactly_what_its_diffusers_folder_gives(kind: Kind, tmp_path: Path) -> None:
    file, folder = load_file(kind, tmp_path), load(models_dir(kind))
    assert file.scheduler_config == folder.scheduler_config
    assert file.has_zeros_for_empty_prompt == folder.has_zeros_for_empty_prompt == (kind.family == "sdxl")
    for part in ("text_encoder", "text_encoder_2", "unet", "vae"):
        if getattr(folder, part) is None:
            assert getattr(file, part) is None
            continue
        ours, theirs = getattr(file, part).state_dict(), getattr(folder, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part


@pytest.mark.parametrize(
    ("kind", "lost", "part"),
    [
        (SD2, "cond_stage_model.model.transformer.resblocks.1.mlp.c_fc.weight", "the text encoder lacks weights such as "),
        (XL, "conditioner.embedders.1.model.text_projection", "the second text encoder lacks weights such as text_projection"),
        (XL, "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "the text encoder lacks weights such as "),
        (XL, "model.diffusion_model.label_emb.0.2.bias", "unet lacks weights"),
    ],
)
def test_a_single_file_that_lacks_a_tensor_is_broken_not_filled_with_noise(kind: Kind, lost: str, part: str, tmp_path: Path) -> None:
    assert lost in ldm_state(models_dir(kind) / "checkpoints" / "tiny")
    with pytest.raises(ModelBroken, match=part):
        load_file(kind, tmp_path, {lost: None})


def test_a_trained_unet_says_itself_that_it_predicts_noise() -> None:
    assert predicts_noise(demo_parts().unet)


def test_what_a_unet_answers_decides_where_a_file_of_sd2_says_nothing(tmp_path: Path) -> None:
    # Random weights answer with something that has nothing to do with their input, as those that predict velocity do.
    found = load_file(SD2, tmp_path)
    assert (found.scheduler_config["prediction_type"], found.unet.config.sample_size) == ("v_prediction", 96)


@pytest.mark.parametrize(
    ("kind", "changes", "sidecar", "expected"),
    [
        (SD2, {}, 'prediction_type = "epsilon"', {"prediction_type": "epsilon"}),
        (SD2_V, {}, 'prediction_type = "epsilon"', {"prediction_type": "epsilon"}),
        (XL, {"v_pred": torch.zeros(0)}, "", {"prediction_type": "v_prediction"}),
        (XL, {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, "", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        (XL, {"v_pred": torch.zeros(0)}, 'prediction_type = "epsilon"', {"prediction_type": "epsilon"}),
        (XL, {}, "", {"prediction_type": "epsilon"}),
    ],
)
def test_sidecars_go_before_marks_in_the_file(
    kind: Kind, changes: dict[str, Any], sidecar: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    config = load_file(kind, tmp_path, changes, sidecar).scheduler_config
    assert expected.items() <= config.items()


@pytest.mark.parametrize(("force_upcast", "expected"), [(True, torch.float32), (False, torch.float16)])
def test_a_vae_that_overflows_in_float16_is_kept_in_float32_and_draws(force_upcast: bool, expected: torch.dtype, tmp_path: Path) -> None:
    models = copy_of(XL, tmp_path)
    path = models / "checkpoints" / "tiny" / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "force_upcast": force_upcast}))
    parts = load(models, dtype=torch.float16)
    assert (parts.unet.dtype, parts.text_encoder_2.dtype, parts.vae.dtype) == (torch.float16, torch.float16, expected)
    model = UnetModel("demo", parts)
    (row,) = model.prepare(a_request(), None)
    assert row.latents.dtype == torch.float32  # where small steps are gathered, whatever the UNet computes in
    assert model.decode(row).size == (64, 64)


def test_in_half_precision_a_picture_is_drawn_over_with_a_vae_of_full_precision() -> None:
    parts = load(models_dir(XL), dtype=torch.float16)
    studio = Studio({"demo": UnetModel("demo", parts)})
    asked = studio.ask(an_img2img_request(steps=2), an_init_image())
    studio.draw()
    assert asked.image.size == (64, 64)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("family", "expected"),
    [("sd2", (865_910_724, 364_228_240, 83_653_863, 340_387_840)), ("sdxl", (2_567_463_684, 1_251_014_160, 83_653_863, 123_060_480))],
)
def test_the_shipped_configurations_describe_the_published_models(family: str, expected: tuple[int, ...]) -> None:
    folder = SHIPPED_CONFIGS / family
    with torch.device("meta"):
        networks = [
            model_class.from_config(model_class.load_config(folder / part, local_files_only=True))
            for model_class, part in ((UNet2DConditionModel, "unet"), (ControlNetModel, "controlnet"), (AutoencoderKL, "vae"))
        ]
        networks.append(CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder", local_files_only=True)))
        if family == "sdxl":
            second = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder_2", local_files_only=True))
            assert count(second) == 694_659_840
    assert tuple(map(count, networks)) == expected
    vae = json.loads((folder / "vae" / "config.json").read_text())
    assert vae["scaling_factor"] == (0.13025 if family == "sdxl" else 0.18215)
    assert vae.get("force_upcast", False) is (family == "sdxl")


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_a_control_nets_family_is_told_by_the_width_of_its_context(width: int, family: str) -> None:
    assert shipped_for({"x.attn2.to_k.weight": torch.zeros(1, width)}) == SHIPPED_CONFIGS / family
