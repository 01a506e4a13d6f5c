"""A real, tiny, random Stable Diffusion 1.x model: as a diffusers folder, and the same weights as an LDM single file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

LAYERS = 2
LEVELS = 2

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_PLAIN = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_diffusers_folder(folder: Path, *, dtype: torch.dtype = torch.float32, variant: str | None = None, in_channels: int = 4) -> Path:
    """Save the model; the context is 768 wide as in every Stable Diffusion 1.x, all else is small."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), in_channels=in_channels, layers_per_block=LAYERS,
        cross_attention_dim=768, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * LEVELS, up_block_types=("UpDecoderBlock2D",) * LEVELS,
    )  # fmt: skip
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=514,
            hidden_size=768,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=12,
            bos_token_id=512,
            eos_token_id=513,
        )
    )
    for part, network in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
        network.to(dtype).save_pretrained(folder / part, variant=variant)
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _write_tokenizer(folder: Path) -> None:
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in [*plain, *range(256, 512 - len(plain))]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def ldm_state(folder: Path) -> dict[str, Tensor]:
    """The folder's weights under the names of the original latent-diffusion code, with the odds and ends real files have."""
    state: dict[str, Tensor] = {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(1)}
    for name, tensor in _tensors(folder / "unet").items():
        state["model.diffusion_model." + _unet_name(name)] = tensor
    for name, tensor in _tensors(folder / "vae").items():
        attention = "mid_block.attentions" in name and tensor.ndim == 2
        state["first_stage_model." + _vae_name(name)] = tensor[:, :, None, None].contiguous() if attention else tensor
    for name, tensor in _tensors(folder / "text_encoder").items():
        state["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = tensor
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state


def write_single_file(folder: Path, path: Path, changes: dict[str, Any] | None = None) -> Path:
    """`ldm_state` as a file. In `changes`, None takes a tensor out."""
    state = {**ldm_state(folder), **(changes or {})}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    return path


def _tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(next(folder.glob("*.safetensors")))
    return tensors


def _unet_name(name: str) -> str:
    for ours, theirs in _UNET_PLAIN.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs, 1)
    where, rest = _unet_block(name)
    for ours, theirs in _UNET_RESNET.items():
        if ".resnets." in name and rest.startswith(ours + "."):
            rest = rest.replace(ours, theirs, 1)
    return f"{where}.{rest}"


def _unet_block(name: str) -> tuple[str, str]:
    if mid := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        return f"middle_block.{1 if mid[1] == 'attentions' else 2 * int(mid[2])}", mid[3]
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name)
    assert found is not None
    block, layer, rest = int(found[2]), int(found[4]), found[5]
    match found[1], found[3]:
        case "down", "downsamplers":
            return f"input_blocks.{1 + block * (LAYERS + 1) + LAYERS}.0", rest.replace("conv", "op", 1)
        case "up", "upsamplers":
            # The first up block has no attention, which moves its upsampler forward.
            return f"output_blocks.{block * (LAYERS + 1) + LAYERS}.{1 if block == 0 else 2}", rest
        case "down", kind:
            return f"input_blocks.{1 + block * (LAYERS + 1) + layer}.{int(kind == 'attentions')}", rest
        case _, kind:
            return f"output_blocks.{block * (LAYERS + 1) + layer}.{int(kind == 'attentions')}", rest


def _vae_name(name: str) -> str:
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{LEVELS - 1 - int(found[1])}", name)
    name = name.replace("down_blocks.", "down.").replace(".resnets.", ".block.")
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    if "mid_block.attentions.0." in name:
        head, tail = name.split("mid_block.attentions.0.")
        for ours, theirs in _VAE_ATTENTION.items():
            if tail.startswith(ours + "."):
                tail = tail.replace(ours, theirs, 1)
        name = f"{head}mid.attn_1.{tail}"
    return name
