"""Checkpoints on disk become networks: folders and single files alike, offline, and never by unpickling."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdapi.catalog import Catalog, Checkpoint, ModelBroken
from sdapi.domain.generation import SchedulerName
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS

from .tiny_checkpoint import ldm_state, write_diffusers_folder, write_single_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder holding one model in both layouts, and the configurations its single file needs."""
    models = tmp_path_factory.mktemp("models")
    checkpoints = models / "checkpoints"
    folder = write_diffusers_folder(checkpoints / "folder")
    write_single_file(folder, checkpoints / "file.safetensors")
    shutil.copytree(folder, models / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    return models


@pytest.fixture
def models(tiny: Path, tmp_path: Path) -> Path:
    """A copy of `tiny` that a test may damage."""
    shutil.copytree(tiny, tmp_path / "models")
    return tmp_path / "models"


def checkpoint(models: Path, model_id: str) -> Checkpoint:
    return Catalog(models, aliases={}, embedded=None).get(model_id)


def load(models: Path, model_id: str, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> UnetComponents:
    return load_checkpoint(checkpoint(models, model_id), device=device, dtype=dtype, configs_dir=models / "configs")


@pytest.fixture
def attempts() -> Iterator[list[str]]:
    """Every try to reach a network or to find a class for a pickle, as the interpreter itself reports them."""
    seen: list[str] = []
    watching = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and event in ("socket.connect", "socket.getaddrinfo", "pickle.find_class"):
            seen.append(f"{event} {args}")

    sys.addaudithook(hook)
    yield seen
    watching[0] = False


def test_a_single_file_gives_exactly_what_its_diffusers_folder_gives(tiny: Path) -> None:
    folder, file = load(tiny, "folder"), load(tiny, "file")

    assert file.scheduler_config == folder.scheduler_config
    for part in ("text_encoder", "unet", "vae"):
        ours, theirs = getattr(file, part).state_dict(), getattr(folder, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(picture(file), picture(folder))


@torch.inference_mode()
def picture(parts: UnetComponents) -> torch.Tensor:
    """One guided forward from words to pixels, without a scheduler."""
    ids = parts.tokenizer("a red circle", padding="max_length", max_length=parts.max_tokens, return_tensors="pt").input_ids
    context = parts.text_encoder(ids)[0]
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = parts.unet(latents, 500, context).sample
    decoded: torch.Tensor = parts.vae.decode(latents - noise).sample
    assert decoded.shape == (1, 3, 8 * parts.vae_scale_factor, 8 * parts.vae_scale_factor)
    return decoded


def test_a_loaded_folder_draws_the_picture_stock_diffusers_draws(tiny: Path) -> None:
    stock = StableDiffusionPipeline.from_pretrained(tiny / "checkpoints" / "folder", local_files_only=True)
    for network in (stock.unet, stock.vae):
        network.to(memory_format=torch.channels_last)  # as ours: the order of sums changes the last bits
    parts = load(tiny, "file")
    ours = StableDiffusionPipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=parts.unet, scheduler=stock.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pictures = []
    for pipeline in (stock, ours):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(7)
        pictures.append(pipeline("a blue square", height=16, width=16, num_inference_steps=3, generator=generator, output_type="pt").images)
    assert torch.equal(pictures[0], pictures[1])


@pytest.mark.parametrize("model_id", ["folder", "file"])
def test_networks_are_frozen_in_eval_mode_and_of_the_asked_precision(tiny: Path, model_id: str) -> None:
    parts = load(tiny, model_id, dtype=torch.bfloat16)

    for network in (parts.text_encoder, parts.unet, parts.vae):
        assert not any(module.training for module in network.modules())
        assert {(p.dtype, p.requires_grad, p.is_meta) for p in network.parameters()} == {(torch.bfloat16, False, False)}
    assert (parts.max_tokens, parts.vae_scale_factor) == (77, 2)
    halves = sum(p.nbytes for network in (parts.text_encoder, parts.unet, parts.vae) for p in network.parameters())
    assert halves <= parts.bytes <= halves + 1024


@pytest.mark.parametrize("model_id", ["folder", "file"])
def test_loading_reaches_for_no_network_and_no_pickle(tiny: Path, model_id: str, attempts: list[str]) -> None:
    load(tiny, model_id)
    assert attempts == []


def test_half_precision_files_are_found_by_their_names(tmp_path: Path) -> None:
    write_diffusers_folder(tmp_path / "checkpoints" / "halved", dtype=torch.float16, variant="fp16")
    (tmp_path / "configs").mkdir()
    assert load(tmp_path, "halved", dtype=torch.float16).unet.dtype == torch.float16


def test_text_encoder_names_of_old_merges_are_understood(tiny: Path, models: Path) -> None:
    prefix = "cond_stage_model.transformer."
    state = write_and_rename(models, lambda name: name.replace(prefix + "text_model.", prefix))
    ours, theirs = load(models, state).text_encoder.state_dict(), load(tiny, "folder").text_encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def write_and_rename(models: Path, rename: Any) -> str:
    state = {rename(name): tensor for name, tensor in ldm_state(models / "checkpoints" / "folder").items()}
    save_file(state, models / "checkpoints" / "renamed.safetensors")
    return "renamed"


def test_what_the_sidecar_says_about_the_scheduler_wins(models: Path) -> None:
    sidecar = models / "checkpoints" / "file.toml"
    sidecar.write_text('prediction_type = "v_prediction"\nscheduler = "DDIMScheduler"\n')

    config = load(models, "file").scheduler_config

    assert config["prediction_type"] == "v_prediction"
    assert config["_class_name"] == SchedulerName.DDIM
    assert load(models, "folder").scheduler_config["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("lost", "part"),
    [
        ("model.diffusion_model.middle_block.0.in_layers.2.weight", "unet"),
        ("first_stage_model.decoder.conv_out.weight", "vae"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "text encoder"),
    ],
)
def test_a_single_file_that_lacks_a_tensor_is_broken_not_filled_with_noise(models: Path, lost: str, part: str) -> None:
    write_single_file(models / "checkpoints" / "folder", models / "checkpoints" / "holed.safetensors", {lost: None})
    with pytest.raises(ModelBroken, match=f"The model 'holed' can't be loaded: .*{part} lacks weights"):
        load(models, "holed")


def test_a_folder_that_lacks_a_tensor_is_broken_not_filled_with_noise(models: Path) -> None:
    path = models / "checkpoints" / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["conv_out.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ModelBroken, match=r"unet lacks weights such as conv_out\.weight"):
        load(models, "folder")


def test_a_file_of_other_sizes_than_its_configuration_is_broken(tiny: Path) -> None:
    with pytest.raises(ModelBroken, match=r"The model 'file' can't be loaded"):
        load_checkpoint(checkpoint(tiny, "file"), device=CPU, dtype=torch.float32, configs_dir=SHIPPED_CONFIGS / "sd1")


class Payload:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("write", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
def test_a_pickle_put_in_the_place_of_listed_weights_is_not_unpickled(
    models: Path, tmp_path: Path, write: Any, attempts: list[str]
) -> None:
    listed = [checkpoint(models, "folder"), checkpoint(models, "file")]
    write({"state_dict": Payload(tmp_path / "trace")}, models / "checkpoints" / "file.safetensors")
    write({"conv_in.weight": Payload(tmp_path / "trace")}, models / "checkpoints/folder/unet/diffusion_pytorch_model.safetensors")

    for one in listed:
        with pytest.raises(ModelBroken):
            load_checkpoint(one, device=CPU, dtype=torch.float32, configs_dir=models / "configs")

    assert attempts == []
    assert not (tmp_path / "trace").exists()


def test_folder_weights_that_became_bin_files_are_refused(models: Path, attempts: list[str]) -> None:
    listed = checkpoint(models, "folder")
    unet = models / "checkpoints" / "folder" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": torch.ones(1)}, unet / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelBroken, match="only pickled weights"):
        load_checkpoint(listed, device=CPU, dtype=torch.float32)
    assert attempts == []


def test_overwriting_a_loaded_file_in_place_changes_nothing(models: Path) -> None:
    parts = load(models, "file")
    before = picture(parts)
    with (models / "checkpoints" / "file.safetensors").open("r+b") as file:
        file.write(b"\0" * file.seek(0, 2))
        file.truncate(8)
    assert torch.equal(picture(parts), before)


def test_the_libraries_are_quiet_while_loading_and_as_before_afterwards(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in (diffusers_logging, transformers_logging)]
    for model_id in ("folder", "file"):
        load(tiny, model_id)
    assert capfd.readouterr() == ("", "")
    assert before == [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in (diffusers_logging, transformers_logging)]


def test_a_broken_model_is_explained_in_the_log(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = checkpoint(models, "file")
    (models / "checkpoints" / "file.safetensors").unlink()
    with caplog.at_level(logging.ERROR, "sdapi"), pytest.raises(ModelBroken):
        load_checkpoint(listed, device=CPU, dtype=torch.float32)
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of an astronaut riding a horse on mars", [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]),
        ("Hello World!", [49406, 3306, 1002, 256, 49407]),
        ("", [49406, 49407]),
    ],
)
def test_the_shipped_tokenizer_numbers_words_as_clip_does(text: str, ids: list[int]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED_CONFIGS / "sd1" / "tokenizer", local_files_only=True)
    assert tokenizer(text).input_ids == ids
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (49408, 77, 49407)


def test_the_shipped_configurations_describe_stable_diffusion_1() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SHIPPED_CONFIGS / "sd1" / "unet", local_files_only=True))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SHIPPED_CONFIGS / "sd1" / "vae", local_files_only=True))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(SHIPPED_CONFIGS / "sd1" / "text_encoder", local_files_only=True))
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, vae, text_encoder)]
    # As counted by everybody who loads the published model: 860 M, 84 M and 123 M.
    assert counts == [859_520_964, 83_653_863, 123_060_480]
    scheduler = PNDMScheduler.from_pretrained(SHIPPED_CONFIGS / "sd1" / "scheduler", local_files_only=True)
    assert (scheduler.config.beta_schedule, scheduler.config.steps_offset, scheduler.config.prediction_type) == (
        "scaled_linear",
        1,
        "epsilon",
    )
    assert json.loads((SHIPPED_CONFIGS / "sd1" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_convolutions_are_channels_last(tiny: Path) -> None:
    parts = load(tiny, "file", dtype=torch.float32, device=CPU)
    assert parts.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert parts.vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_vae_may_have_more_bits_than_the_unet(tiny: Path) -> None:
    for model_id in ("file", "folder"):
        parts = load_checkpoint(
            checkpoint(tiny, model_id), device=CPU, dtype=torch.bfloat16, vae_dtype=torch.float32, configs_dir=tiny / "configs"
        )
        assert (parts.unet.dtype, parts.text_encoder.dtype, parts.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
