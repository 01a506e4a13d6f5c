"""Real, tiny, random Stable Diffusion models of every family: as diffusers folders, and the same weights as LDM single files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

LAYERS = 2

Family = Literal["sd1", "sd2", "sdxl"]
_TIME_DIM = 8
_UNETS: dict[Family, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 4},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": (4, 8), "use_linear_projection": True},
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (4, 8),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": _TIME_DIM,
        "projection_class_embeddings_input_dim": 6 * _TIME_DIM + 1280,
    },
}
_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1}

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_PLAIN = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_diffusers_folder(
    folder: Path,
    *,
    family: Family = "sd1",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    in_channels: int = 4,
    levels: int = 2,
    prediction_type: str = "epsilon",
    contrast: float = 1.0,
    attention: float = 1.0,
) -> Path:
    """Save the model; the context is as wide as in every model of the family, all else is small.

    Pictures have 2 ** (levels - 1) pixels per latent; only models of 4 levels can be drawn with. `contrast` multiplies what the decoder
    gives, `attention` what words add.
    """
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), in_channels=in_channels, layers_per_block=LAYERS, **_UNETS[family],
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32,) * (levels - 1) + (64,), layers_per_block=1, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    )  # fmt: skip
    vae.decoder.conv_out.weight.data *= contrast
    for name, parameter in unet.named_parameters():
        if ".attn2.to_out." in name or ".attn2.to_k." in name:
            parameter.data *= attention
    networks = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(_text_config(1024 if family == "sd2" else 768))}
    if family == "sdxl":
        networks["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(1280))
    for part, network in networks.items():
        network.to(dtype).save_pretrained(folder / part, variant=variant)
    scheduler = {
        "sd1": PNDMScheduler(**_SCHEDULER, skip_prk_steps=True, prediction_type=prediction_type),
        "sd2": DDIMScheduler(**_SCHEDULER, clip_sample=False, prediction_type=prediction_type),
        "sdxl": EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, prediction_type=prediction_type
        ),
    }[family]
    scheduler.save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer", pad_token="!" if family == "sd2" else "<|endoftext|>")
    kind = "XL" if family == "sdxl" else ""
    index: dict[str, Any] = {
        "_class_name": f"StableDiffusion{kind}Pipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
    }
    if family == "sdxl":
        _write_tokenizer(folder / "tokenizer_2", pad_token="!")
        index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
        index |= {"image_encoder": [None, None], "force_zeros_for_empty_prompt": True}
    else:
        index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _text_config(hidden_size: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=hidden_size // 64,
        projection_dim=hidden_size,
        bos_token_id=512,
        eos_token_id=513,
    )


def _write_tokenizer(folder: Path, pad_token: str) -> None:
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in [*plain, *range(256, 512 - len(plain))]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad_token, "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def ldm_state(folder: Path) -> dict[str, Tensor]:
    """The folder's weights under the names of the original latent-diffusion code, with the odds and ends real files have."""
    state: dict[str, Tensor] = {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(1)}
    for name, tensor in _tensors(folder / "unet").items():
        state["model.diffusion_model." + _unet_name(name)] = tensor
    vae = _tensors(folder / "vae")
    levels = 1 + max(int(name.split(".")[2]) for name in vae if name.startswith("decoder.up_blocks."))
    for name, tensor in vae.items():
        attention = "mid_block.attentions" in name and tensor.ndim == 2
        state["first_stage_model." + _vae_name(name, levels)] = tensor[:, :, None, None].contiguous() if attention else tensor
    encoder = _tensors(folder / "text_encoder")
    if (folder / "text_encoder_2").is_dir():
        first = "conditioner.embedders.0.transformer.text_model."
        state |= _open_clip_state(_tensors(folder / "text_encoder_2"), "conditioner.embedders.1.model.")
    elif '"pad_token": "!"' in (folder / "tokenizer" / "tokenizer_config.json").read_text():
        return state | _open_clip_state(encoder, "cond_stage_model.model.")
    else:
        first = "cond_stage_model.transformer.text_model."
    state |= {first + name.removeprefix("text_model."): tensor for name, tensor in encoder.items()}
    state[first + "embeddings.position_ids"] = torch.arange(77)[None]
    return state


def _open_clip_state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """As open_clip names them: queries, keys and values in one tensor, the projection the other way round."""
    named = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    width = named["final_layer_norm.weight"].shape[0]
    state = {"logit_scale": torch.ones(()), "text_projection": named.pop("text_projection.weight", torch.eye(width)).T.contiguous()}
    for name, tensor in named.items():
        if found := re.fullmatch(r"(.+self_attn)\.q_proj\.(weight|bias)", name):
            three = [named[f"{found[1]}.{which}_proj.{found[2]}"] for which in "qkv"]
            state[f"{_open_clip_name(found[1])}.in_proj_{found[2]}"] = torch.cat(three)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            state[_open_clip_name(name)] = tensor
    return {prefix + name: tensor for name, tensor in state.items()}


def _open_clip_name(name: str) -> str:
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name


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


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
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
