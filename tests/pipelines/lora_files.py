"""Real LoRA files for the embedded model, with random weights, in the ways that trainers write them; and the same change merged by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdapi.pipelines.loading.loader import UnetComponents

from .drawing import demo_parts

RANK = 4
ALPHA = 2.0

LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
OUTPUT = "up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_out.0"
FEED_FORWARD = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
POINTWISE = "up_blocks.1.attentions.0.proj_in"
CONVOLUTION = "up_blocks.2.resnets.0.conv1"
STRIDED = "down_blocks.1.downsamplers.0.conv"
TIME = "up_blocks.3.resnets.0.time_emb_proj"
UNET_PATHS = (LINEAR, OUTPUT, FEED_FORWARD, POINTWISE, CONVOLUTION, STRIDED, TIME)
TEXT_PATHS = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1")

LDM_NAMES = {
    LINEAR: "input_blocks_3_1_transformer_blocks_0_attn2_to_k",
    OUTPUT: "output_blocks_5_1_transformer_blocks_0_attn1_to_out_0",
    FEED_FORWARD: "middle_block_1_transformer_blocks_0_ff_net_0_proj",
    POINTWISE: "output_blocks_2_1_proj_in",
    CONVOLUTION: "output_blocks_4_0_in_layers_2",
    STRIDED: "input_blocks_4_0_op",
    TIME: "output_blocks_6_0_emb_layers_1",
}
"""What the original latent-diffusion code calls these modules, in a model with one layer in each block."""


@dataclass(frozen=True)
class RandomLora:
    """(down, up) by module path."""

    unet: dict[str, tuple[Tensor, Tensor]]
    text_encoder: dict[str, tuple[Tensor, Tensor]]


def a_lora(seed: int = 1, *, unet: tuple[str, ...] = UNET_PATHS, text: tuple[str, ...] = TEXT_PATHS, size: float = 1.2) -> RandomLora:
    """Random weights for these modules of the embedded model, strong enough to be seen in four steps."""
    generator = torch.Generator().manual_seed(seed)
    parts = demo_parts()

    def pair(network: torch.nn.Module, path: str) -> tuple[Tensor, Tensor]:
        weight = network.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        outputs, inputs, *kernel = weight.shape
        down = torch.randn(RANK, inputs, *kernel, generator=generator)
        up = torch.randn(outputs, RANK, *[1] * len(kernel), generator=generator)
        return down * size / down[0].numel() ** 0.5, up * size / RANK**0.5

    return RandomLora({path: pair(parts.unet, path) for path in unet}, {path: pair(parts.text_encoder, path) for path in text})


def merged(lora: RandomLora, strength: float, parts: UnetComponents | None = None) -> UnetComponents:
    """A copy of the model into whose weights the change is calculated."""
    base = parts or demo_parts()
    copied = replace(base, unet=copy.deepcopy(base.unet), text_encoder=copy.deepcopy(base.text_encoder))
    for network, changes in ((copied.unet, lora.unet), (copied.text_encoder, lora.text_encoder)):
        for path, (down, up) in changes.items():
            weight = network.get_submodule(path).weight
            weight.data += strength * ALPHA / RANK * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    return copied


def kohya(lora: RandomLora) -> dict[str, Tensor]:
    """As kohya-ss/sd-scripts and LyCORIS' LoCon write it."""
    tensors: dict[str, Tensor] = {}
    prefixed = {f"lora_unet_{path.replace('.', '_')}": pair for path, pair in lora.unet.items()}
    prefixed |= {f"lora_te_text_model_{path.replace('.', '_')}": pair for path, pair in lora.text_encoder.items()}
    for name, (down, up) in prefixed.items():
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(ALPHA)}
    return tensors


def kohya_with_ldm_names(lora: RandomLora) -> dict[str, Tensor]:
    """As trainers write it that work on the original latent-diffusion code."""
    theirs = {f"lora_unet_{path.replace('.', '_')}": f"lora_unet_{LDM_NAMES[path]}" for path in lora.unet}
    return {f"{theirs.get(key.split('.')[0], key.split('.')[0])}.{key.split('.', 1)[1]}": tensor for key, tensor in kohya(lora).items()}


def peft(lora: RandomLora) -> dict[str, Tensor]:
    """As diffusers' training scripts write it; alpha is in the metadata."""
    prefixed = {f"unet.{path}": pair for path, pair in lora.unet.items()}
    prefixed |= {f"text_encoder.text_model.{path}": pair for path, pair in lora.text_encoder.items()}
    return {f"{name}.lora_{'AB'[i]}.weight": pair[i] for name, pair in prefixed.items() for i in (0, 1)}


def old_diffusers(lora: RandomLora) -> dict[str, Tensor]:
    """As diffusers wrote it before PEFT. It knew no alpha, so that stands in the weights."""
    prefixed = {}
    for path, pair in lora.unet.items():
        block, leaf = path.removesuffix(".0").rsplit(".", 1)
        is_attention = "attn" in block
        prefixed[f"unet.{block}.processor.{leaf}_lora" if is_attention else f"unet.{path}.lora"] = pair
    prefixed |= {f"text_encoder.text_model.{path}.lora_linear_layer": pair for path, pair in lora.text_encoder.items()}
    named = {f"{name}.{role}.weight": pair[i] for name, pair in prefixed.items() for i, role in enumerate(("down", "up"))}
    return {name: tensor * (ALPHA / RANK if name.endswith(".up.weight") else 1) for name, tensor in named.items()}


METADATA_OF_PEFT = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": ALPHA, "text_encoder.lora_alpha": ALPHA, "unet.r": RANK})}


def install(models_dir: Path, name: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Put a LoRA file where the server looks for it."""
    folder = models_dir / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors", metadata)
    return folder / f"{name}.safetensors"
