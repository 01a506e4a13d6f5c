"""LoRAs, textual inversions and control nets of Stable Diffusion 2.x and XL, and what happens to those of another family."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sdapi.catalog import Assets
from sdapi.domain.generation import ControlNet, SchedulerName
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.scheduling.tickets import Trouble

from .drawing import Studio, a_request, greatest_difference
from .test_equals_diffusers import an_init_image
from .tiny_families import SD1, SD2, XL, Kind, called, draw_with, parts_of, stock

CLOSENESS = 2
"""Of 255."""
VISIBLE = 10
RANK = 4

Network = str
Changes = dict[tuple[Network, str], tuple[Tensor, Tensor]]
"""(down, up) by network and module path."""

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
PATHS = {
    "unet": (TO_K, "mid_block.attentions.0.proj_in"),
    "text_encoder": ("encoder.layers.0.self_attn.q_proj",),
    "text_encoder_2": ("encoder.layers.1.mlp.fc1", "encoder.layers.0.self_attn.v_proj"),
}
LDM_NAMES = {
    TO_K: "input_blocks_1_1_transformer_blocks_0_attn2_to_k",
    "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
    "add_embedding.linear_1": "label_emb_0_0",
}


def networks_of(parts: UnetComponents) -> dict[Network, Any]:
    found = {"unet": parts.unet, "text_encoder": parts.text_encoder, "text_encoder_2": parts.text_encoder_2}
    return {name: network for name, network in found.items() if network is not None}


def module(network: Any, path: str) -> Any:
    # CLIPTextModelWithProjection has a level that CLIPTextModel has not.
    return getattr(network, "text_model", network).get_submodule(path)


def some_changes(kind: Kind, size: float = 1.5) -> Changes:
    generator = torch.Generator().manual_seed(1)
    changes: Changes = {}
    for name, network in networks_of(parts_of(kind)).items():
        for path in (*PATHS[name], *(("add_embedding.linear_1",) if name == "unet" and kind is XL else ())):
            outputs, inputs = module(network, path).weight.shape[:2]
            down, up = (torch.randn(shape, generator=generator) for shape in ((RANK, inputs), (outputs, RANK)))
            changes[name, path] = (down * size / inputs**0.5, up * size / RANK**0.5)
    return changes


def merged(kind: Kind, changes: Changes, only: Network | None = None) -> UnetComponents:
    copied = {name: copy.deepcopy(network) for name, network in networks_of(parts_of(kind)).items()}
    for (name, path), (down, up) in changes.items():
        if only in (None, name):
            module(copied[name], path).weight.data += up @ down
    return replace(parts_of(kind), **copied)


def kohya(kind: Kind, changes: Changes) -> dict[str, Tensor]:
    """With the names of the original code for XL's UNet, as its trainers write them."""
    encoder = "lora_te1_text_model_" if kind is XL else "lora_te_text_model_"
    prefixes = {"unet": "lora_unet_", "text_encoder": encoder, "text_encoder_2": "lora_te2_text_model_"}
    tensors: dict[str, Tensor] = {}
    for (name, path), (down, up) in changes.items():
        spelt = LDM_NAMES[path] if kind is XL and name == "unet" else path.replace(".", "_")
        stem = prefixes[name] + spelt
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(float(RANK))}
    return tensors


def peft(changes: Changes) -> dict[str, Tensor]:
    named = {f"{name}.{'' if name == 'unet' else 'text_model.'}{path}": pair for (name, path), pair in changes.items()}
    return {f"{name}.lora_{'AB'[i]}.weight": pair[i] for name, pair in named.items() for i in (0, 1)}


def install(models: Path, kind: str, name: str, tensors: dict[str, Tensor]) -> Assets:
    (models / kind).mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, models / kind / f"{name}.safetensors")
    return Assets(models)


def refusal(kind: Kind, request: Any, assets: Assets | None = None, *pictures: Image.Image | None, **studio: Any) -> str:
    room = Studio({"demo": UnetModel("demo", parts_of(kind), assets)}, **studio)
    refused, neighbour = room.ask(request, *pictures), room.ask(a_request(steps=2))
    room.draw()
    (result,) = refused.results
    assert isinstance(result, Trouble)
    assert greatest_difference(neighbour.image, draw_with(parts_of(kind), a_request(steps=2))) == 0
    return result.reason


@pytest.mark.parametrize("kind", [SD2, XL])
@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_a_lora_draws_what_a_model_draws_into_which_it_was_merged(tmp_path: Path, kind: Kind, layout: str) -> None:
    changes = some_changes(kind)
    assets = install(tmp_path, "loras", "moxin", kohya(kind, changes) if layout == "kohya" else peft(changes))
    drawn = draw_with(parts_of(kind), a_request(loras=[{"id": "moxin", "strength": 1.0}]), assets=assets)
    expected = draw_with(merged(kind, changes), a_request())
    assert greatest_difference(drawn, expected) <= CLOSENESS
    for only in networks_of(parts_of(kind)):
        part = draw_with(merged(kind, changes, only), a_request())
        assert greatest_difference(part, draw_with(parts_of(kind), a_request())) >= CLOSENESS + 1, f"{only} is seen"
        assert greatest_difference(part, expected) >= CLOSENESS + 1, f"{only} is not all"


def vectors(count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(size))


def test_a_textual_inversion_of_xl_draws_what_diffusers_draws(tmp_path: Path) -> None:
    pair = {"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}
    assets = install(tmp_path, "embeddings", "moody", pair)
    request = a_request(prompt="a moody circle")
    pipeline = stock(XL, "StableDiffusion{}Pipeline")
    pipeline.load_textual_inversion(pair["clip_l"], token="moody", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer)
    pipeline.load_textual_inversion(pair["clip_g"], token="moody", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2)
    drawn = draw_with(parts_of(XL), request, assets=assets)
    assert greatest_difference(drawn, called(pipeline, request, width=64, height=64)) <= CLOSENESS
    assert greatest_difference(drawn, draw_with(parts_of(XL), request)) >= VISIBLE


def test_a_textual_inversion_of_sd2_draws_what_diffusers_draws(tmp_path: Path) -> None:
    assets = install(tmp_path, "embeddings", "moody", {"emb_params": vectors(2, 1024)})
    request = a_request(prompt="a moody circle")
    pipeline = stock(SD2, "StableDiffusion{}Pipeline")
    pipeline.load_textual_inversion(vectors(2, 1024), token="moody")
    drawn = draw_with(parts_of(SD2), request, assets=assets)
    assert greatest_difference(drawn, called(pipeline, request, width=64, height=64)) <= CLOSENESS
    assert greatest_difference(drawn, draw_with(parts_of(SD2), request)) >= VISIBLE


@cache
def a_net(kind: Kind) -> Any:
    torch.manual_seed(4)
    net = diffusers.ControlNetModel.from_unet(parts_of(kind).unet, conditioning_embedding_out_channels=(8, 8, 8, 8)).eval()
    for zero in (net.controlnet_cond_embedding.conv_out, *net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight, std=0.2)
    return net


def led(kind: Kind) -> ControlNetwork:
    return ControlNetwork("one", copy.deepcopy(a_net(kind)))


def a_led_request(**changes: object) -> ControlNet:
    values = {**a_request(scheduler=SchedulerName.DDIM).model_dump(exclude={"kind"}), "controlnet_models": ("one",)}
    return ControlNet.model_validate({**values, "control_image": "inputs/x.png", **changes})


def test_a_control_net_of_xl_leads_as_in_diffusers_and_shares_forwards_with_plain_rows() -> None:
    scheduler = diffusers.DDIMScheduler.from_config(dict(parts_of(XL).scheduler_config))
    pipeline = stock(XL, "StableDiffusion{}ControlNetPipeline", scheduler, controlnet=copy.deepcopy(a_net(XL)))
    plain = a_request(scheduler=SchedulerName.DDIM)
    expected = called(pipeline, plain, image=an_init_image(), controlnet_conditioning_scale=0.7, width=64, height=64)
    studio = Studio({"demo": UnetModel("demo", parts_of(XL))}, control_nets={"one": led(XL)})
    lone = studio.ask(plain)
    drawn = studio.ask(a_led_request(conditioning_scales=(0.7,)), None, None, an_init_image())
    studio.draw()
    assert greatest_difference(drawn.image, expected) <= CLOSENESS
    assert greatest_difference(lone.image, draw_with(parts_of(XL), plain)) <= CLOSENESS
    assert greatest_difference(drawn.image, lone.image) >= VISIBLE


@pytest.mark.parametrize(("theirs", "model"), [(SD1, XL), (SD2, XL), (XL, SD1)])
def test_a_lora_of_another_family_is_refused_by_its_field(tmp_path: Path, theirs: Kind, model: Kind) -> None:
    assets = install(tmp_path, "loras", "moxin", peft(some_changes(theirs)))
    sentence = refusal(model, a_request(loras=[{"id": "moxin", "strength": 1.0}]), assets)
    assert sentence.startswith("lora_model: The LoRA 'moxin' can't be used with the model 'demo': Its weights for ")
    assert "where the model takes" in sentence


@pytest.mark.parametrize(
    ("tensors", "model", "words"),
    [
        ({"emb_params": vectors(1, 768)}, XL, "no vectors for each of Stable Diffusion XL's two text encoders"),
        ({"emb_params": vectors(1, 768)}, SD2, "Its vectors have 768 numbers, where the model's words have 1024."),
        ({"clip_l": vectors(1, 768), "clip_g": vectors(1, 1280)}, SD1, "It was made for Stable Diffusion XL."),
    ],
)
def test_a_textual_inversion_of_another_family_is_refused_by_its_field(
    tmp_path: Path, tensors: dict[str, Tensor], model: Kind, words: str
) -> None:
    assets = install(tmp_path, "embeddings", "moody", tensors)
    sentence = refusal(model, a_request(embeddings=["moody"]), assets)
    assert sentence.startswith("embeddings_model: The textual inversion 'moody' can't be used with the model 'demo': ")
    assert words in sentence


@pytest.mark.parametrize(("theirs", "model"), [(SD1, XL), (XL, SD1), (SD2, SD1)])
def test_a_control_net_of_another_family_is_refused_by_name(theirs: Kind, model: Kind) -> None:
    sentence = refusal(model, a_led_request(), None, None, None, an_init_image(), control_nets={"one": led(theirs)})
    assert sentence == "The control net 'one' is made for another kind of model than 'demo'."
