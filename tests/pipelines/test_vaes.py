"""A request's own VAE encodes and decodes its pictures, and no others."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from recipe.drawing import draw
from recipe.scenes import Scene
from safetensors.torch import save_file

from sdapi.catalog import Assets, Refused
from sdapi.pipelines.added.vaes import VaeReader
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble

from .drawing import Studio, a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference
from .tiny_checkpoint import ldm_state, write_diffusers_folder


def another_vae() -> AutoencoderKL:
    """The embedded model's, so changed that what it decodes is darker."""
    vae: AutoencoderKL = copy.deepcopy(demo_parts().vae)
    vae.decoder.conv_out.bias.data -= 0.3
    vae.encoder.conv_out.weight.data *= 0.8
    return vae


def install(models_dir: Path, name: str, vae: AutoencoderKL) -> None:
    vae.save_pretrained(models_dir / "vaes" / name)


def test_pictures_are_drawn_with_the_vae_they_name_and_share_forwards_with_others(tmp_path: Path) -> None:
    install(tmp_path, "dark", another_vae())
    init = draw(Scene(shape="square", colour="green", background="white"), 64, 64)
    studio = Studio({"demo": UnetModel("demo", demo_parts(), Assets(tmp_path))})
    dark = [studio.ask(a_request(vae="dark")), studio.ask(an_img2img_request(vae="dark"), init)]
    plain = studio.ask(a_request())
    studio.draw()
    own = Studio({"demo": UnetModel("demo", replace(demo_parts(), vae=another_vae()))})
    expected = [own.ask(a_request()), own.ask(an_img2img_request(), init)]
    own.draw()
    for one, other in zip(dark, expected, strict=True):
        assert greatest_difference(one.image, other.image) <= 2
    assert greatest_difference(plain.image, draw_alone(a_request())) <= 2
    assert greatest_difference(plain.image, dark[0].image) > 20


def test_a_vae_of_other_latents_fails_its_job_in_a_sentence(tmp_path: Path) -> None:
    wide = AutoencoderKL(
        block_out_channels=(16, 16, 16, 16), layers_per_block=1, latent_channels=16, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    install(tmp_path, "wide", wide)
    studio = Studio({"demo": UnetModel("demo", demo_parts(), Assets(tmp_path))})
    refused, neighbour = studio.ask(a_request(vae="wide")), studio.ask(a_request())
    studio.draw()
    (result,) = refused.results
    assert isinstance(result, Trouble)
    assert result.reason.startswith("vae: The VAE 'wide' can't be used with the model 'demo': Its latent_channels is 16, the model's is 4")
    assert isinstance(neighbour.results[0], Pictures)


def test_a_vae_for_another_scale_of_latents_is_refused(tmp_path: Path) -> None:
    other = another_vae()
    other.register_to_config(scaling_factor=0.13025)
    install(tmp_path, "xl", other)
    reader = VaeReader(demo_parts().vae, device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(Refused, match=r"scaling_factor is 0.13025, the model's is 0.18215"):
        reader.read(Assets(tmp_path).get("vae", "xl"))


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("names", ["ldm", "diffusers"])
def test_single_files_are_read_whatever_their_tensors_are_called(tmp_path: Path, prefix: str, names: str) -> None:
    folder = write_diffusers_folder(tmp_path / "tiny")
    own = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True)
    ldm = {name.removeprefix("first_stage_model."): t for name, t in ldm_state(folder).items() if name.startswith("first_stage_model.")}
    tensors = ldm if names == "ldm" else own.state_dict()
    (tmp_path / "vaes").mkdir()
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "vaes" / "soft.safetensors")
    reader = VaeReader(own, device=torch.device("cpu"), dtype=torch.float32, configs_dir=folder)
    read = reader.read(Assets(tmp_path).get("vae", "soft"))
    expected = own.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read.network.state_dict().items())


def test_a_single_file_with_weights_missing_is_refused(tmp_path: Path) -> None:
    folder = write_diffusers_folder(tmp_path / "tiny")
    own = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True)
    (tmp_path / "vaes").mkdir()
    some = {name: tensor.contiguous() for name, tensor in own.state_dict().items() if not name.startswith("decoder.conv_out")}
    save_file(some, tmp_path / "vaes" / "soft.safetensors")
    reader = VaeReader(own, device=torch.device("cpu"), dtype=torch.float32, configs_dir=folder)
    with pytest.raises(Refused, match="not those of this family's VAE"):
        reader.read(Assets(tmp_path).get("vae", "soft"))
