"""What lies beside the checkpoints is listed by kind, what is in the wrong folder is told so, and only headers are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdapi.catalog import Assets
from sdapi.catalog.asset_inspection import AssetKind, kind_of_tensors
from sdapi.domain.errors import ModelNotFound

from .test_catalog import SD1, Clock, Shapes, write_safetensors

TENSORS: dict[AssetKind, Shapes] = {
    "lora": {"lora_unet_mid_block.lora_down.weight": (4, 64)},
    "embedding": {"emb_params": (8, 768)},
    "controlnet": {"control_model.input_hint_block.0.weight": (16, 3, 3, 3), "control_model.time_embed.0.weight": (8, 8)},
    "vae": {"decoder.up.0.block.0.conv1.weight": (8, 8, 3, 3)},
    "upscaler": {"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
}
FOLDERS = {"lora": "loras", "embedding": "embeddings", "controlnet": "controlnets", "vae": "vaes", "upscaler": "upscalers"}


def put(models: Path, kind: AssetKind, name: str, shapes: Shapes | None = None) -> Path:
    folder = models / FOLDERS[kind]
    folder.mkdir(exist_ok=True)
    return write_safetensors(folder / f"{name}.safetensors", TENSORS[kind] if shapes is None else shapes)


def put_folder(models: Path, kind: AssetKind, name: str, files: dict[str, Shapes], class_name: str | None = None) -> Path:
    folder = models / FOLDERS[kind] / name
    folder.mkdir(parents=True)
    for file, shapes in files.items():
        write_safetensors(folder / file, shapes)
    if class_name is not None:
        (folder / "config.json").write_text(json.dumps({"_class_name": class_name}))
    return folder


def only_problem(assets: Assets) -> str:
    (problem,) = assets.problems()
    return problem.sentence


@pytest.mark.parametrize("kind", TENSORS)
def test_a_file_is_listed_under_its_kind_only(kind: AssetKind, tmp_path: Path) -> None:
    path = put(tmp_path, kind, "mine")
    assets = Assets(tmp_path)
    (asset,) = assets.all(kind)
    assert (asset.id, asset.kind, asset.path, asset.layout, asset.weights) == ("mine", kind, path, "single_file", (path,))
    assert asset.size_bytes == path.stat().st_size
    assert asset.modified_at.timestamp() == pytest.approx(path.stat().st_mtime, abs=1e-3)
    assert [len(assets.all(other)) for other in TENSORS if other != kind] == [0] * 4
    assert (assets.get(kind, "mine"), assets.problems()) == (asset, [])


@pytest.mark.parametrize(
    ("kind", "files", "class_name"),
    [
        (
            "controlnet",
            {"diffusion_pytorch_model.safetensors": {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}},
            "ControlNetModel",
        ),
        ("vae", {"diffusion_pytorch_model.fp16.safetensors": {"decoder.conv_in.weight": (8, 4, 3, 3)}}, "AutoencoderKL"),
        ("lora", {"pytorch_lora_weights.safetensors": TENSORS["lora"], "optimizer.safetensors": {}}, None),
        ("embedding", {"learned_embeds.safetensors": {"<cat>": (768,)}}, None),
        ("upscaler", {"RealESRGAN_x4plus.safetensors": TENSORS["upscaler"]}, None),
    ],
)
def test_a_diffusers_folder_is_listed(kind: AssetKind, files: dict[str, Shapes], class_name: str | None, tmp_path: Path) -> None:
    folder = put_folder(tmp_path, kind, "mine", files, class_name)
    asset = Assets(tmp_path).get(kind, "mine")
    assert (asset.path, asset.layout, asset.weights) == (folder, "diffusers", (folder / next(iter(files)),))


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (SD1, "checkpoint"),
        ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 4)}, "lora"),
        ({"unet.down_blocks.0.attentions.0.lora_A.weight": (4, 4)}, "lora"),
        ({"lora_unet_x.hada_w1_a": (4, 4)}, "lora"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "embedding"),
        ({"<concept>": (1, 1024)}, "embedding"),
        ({"first_stage_model.decoder.up.0.weight": (8, 8, 3, 3)}, "vae"),
        ({"params_ema.conv_first.weight": (64, 3, 3, 3)}, "upscaler"),
        ({"model.0.weight": (64, 3, 3, 3)}, "upscaler"),
        ({"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3), "time_embedding.linear_1.weight": (8, 8)}, None),
        ({"text_model.embeddings.token_embedding.weight": (49408, 768), "x": (3,)}, None),
        ({}, None),
    ],
)
def test_kinds_are_told_apart_by_their_tensors(shapes: Shapes, kind: str | None) -> None:
    assert kind_of_tensors(shapes) == kind


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (SD1, "It is a checkpoint, not a LoRA; it belongs into models/checkpoints/."),
        (TENSORS["vae"], "It is a VAE, not a LoRA; it belongs into models/vaes/."),
        ({}, "It is not a LoRA, nor anything else that is known here."),
    ],
)
def test_what_is_in_the_wrong_folder_is_told_where_it_belongs(shapes: Shapes, words: str, tmp_path: Path) -> None:
    put(tmp_path, "lora", "x", shapes)
    assets = Assets(tmp_path)
    assert assets.all("lora") == []
    assert only_problem(assets) == words


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "style.pt").write_bytes(b"\x80\x04.")
    assert "Convert it to safetensors first" in only_problem(Assets(tmp_path))


@pytest.mark.parametrize("class_name", ["UNet2DConditionModel", None])
def test_a_folder_of_another_network_is_refused(class_name: str | None, tmp_path: Path) -> None:
    put_folder(tmp_path, "vae", "x", {"diffusion_pytorch_model.safetensors": TENSORS["vae"]}, class_name)
    assert "not a VAE" in only_problem(Assets(tmp_path))


def test_a_folder_with_several_files_is_ambiguous(tmp_path: Path) -> None:
    put_folder(tmp_path, "lora", "x", {"a.safetensors": TENSORS["lora"], "b.safetensors": TENSORS["lora"]})
    assert "more than one .safetensors file" in only_problem(Assets(tmp_path))


def test_a_sidecar_gives_title_and_trigger(tmp_path: Path) -> None:
    put(tmp_path, "lora", "ink").with_suffix(".toml").write_text('title = "Ink"\ntrigger = "ink wash"')
    (tmp_path / "loras" / "lost.toml").write_text("")
    assets = Assets(tmp_path)
    assert (assets.get("lora", "ink").title, assets.get("lora", "ink").trigger) == ("Ink", "ink wash")
    assert only_problem(assets) == "It is a sidecar, but there is no lora 'lost' beside it."


def test_an_unknown_asset_is_answered_with_those_there_are(tmp_path: Path) -> None:
    put(tmp_path, "vae", "b")
    put(tmp_path, "vae", "a")
    with pytest.raises(ModelNotFound) as refusal:
        Assets(tmp_path).get("vae", "../vaes/a")
    assert refusal.value.available == ("a", "b")


def test_what_is_dropped_in_appears_within_a_second(tmp_path: Path) -> None:
    clock = Clock()
    assets = Assets(tmp_path, clock=clock)
    assert assets.all("lora") == []
    put(tmp_path, "lora", "late")
    assert assets.all("lora") == []
    clock.now_s += 1
    assert [asset.id for asset in assets.all("lora")] == ["late"]
    (tmp_path / "loras" / "late.safetensors").unlink()
    clock.now_s += 1
    assert assets.all("lora") == []


def test_a_models_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assets = Assets(tmp_path / "nowhere")
    assert ([assets.all(kind) for kind in TENSORS], assets.problems()) == ([[]] * 5, [])
