"""Real, tiny, random models of the families that are drawn by whole pipelines, as diffusers folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from sdapi.pipelines.loading.loader import quiet_loading

WIDTH = 32
_LOUDNESS = 4
_BYTES = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_LETTERS = [chr(code) for code in [*_BYTES, *range(256, 512 - len(_BYTES))]]
_CHAT = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


def write_whole_folder(folder: Path, family: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Save a tiny model of the family ("flux", "sd3", "qwen_image", "z_image", "lumina2", "pixart"). `changes` go to its transformer."""
    torch.manual_seed(0)
    with quiet_loading(), torch.no_grad():
        pipe = _BUILDERS[family](changes)
        for weight in pipe.transformer.parameters():
            # So that the words are seen in the picture; with weights as they begin, networks this small hardly pass them on.
            if weight.ndim > 1:
                weight.mul_(_LOUDNESS)
        pipe.to(dtype).save_pretrained(folder)
    return folder


def _vae(latent_channels: int, *, levels: int = 2) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels, layers_per_block=1, latent_channels=latent_channels, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5,
    )  # fmt: skip


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=512, eos_token_id=513, pad_token_id=513, projection_dim=WIDTH,
    )  # fmt: skip


def _clip_tokenizer() -> CLIPTokenizer:
    tokens = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=2, num_heads=4))


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(chr(code) for code in range(33, 127))]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0, model_max_length=64)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    vocab = {token: i for i, token in enumerate([*_LETTERS, "<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=2048)
    tokenizer.chat_template = _CHAT
    return tokenizer


def _flux(changes: dict[str, Any]) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        **{
            "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH, "axes_dims_rope": (4, 4, 8),
            "guidance_embeds": True, **changes,
        }
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(4), text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=_clip_tokenizer(), text_encoder_2=_t5(), tokenizer_2=_t5_tokenizer(), transformer=transformer,
    )  # fmt: skip


def _sd3(changes: dict[str, Any]) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        **{
            "sample_size": 32, "patch_size": 2, "in_channels": 16, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4,
            "caption_projection_dim": WIDTH, "joint_attention_dim": 2 * WIDTH, "pooled_projection_dim": 2 * WIDTH, "out_channels": 16,
            **changes,
        }
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(16), transformer=transformer,
        text_encoder=CLIPTextModelWithProjection(_clip_config()), tokenizer=_clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()), tokenizer_2=_clip_tokenizer(),
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def _qwen_image(changes: dict[str, Any]) -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        **{
            "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
            "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4), **changes,
        }
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}, "vocab_size": 300,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, vocab_size=300, hidden_size=16))
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=encoder, tokenizer=_qwen_tokenizer(), transformer=transformer
    )


def _z_image(changes: dict[str, Any]) -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        **{
            "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": WIDTH, "n_layers": 1, "n_refiner_layers": 1,
            "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [1024, 64, 64], **changes,
        }
    )  # fmt: skip
    with torch.no_grad():
        # diffusers leaves these as the memory was.
        transformer.x_pad_token.fill_(1)
        transformer.cap_pad_token.fill_(1)
    config = Qwen3Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8, vocab_size=300
    )
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(4), text_encoder=Qwen3Model(config), tokenizer=_qwen_tokenizer(),
        transformer=transformer,
    )  # fmt: skip


def _lumina2(changes: dict[str, Any]) -> Any:
    transformer = diffusers.Lumina2Transformer2DModel(
        **{
            "sample_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 1, "num_refiner_layers": 1,
            "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2, "norm_eps": 1e-5, "scaling_factor": 1.0,
            "axes_dim_rope": (4, 2, 2), "cap_feat_dim": 8, **changes,
        }
    )  # fmt: skip
    config = Gemma2Config(
        head_dim=4, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=2, num_key_value_heads=2,
        sliding_window=2, vocab_size=300,
    )  # fmt: skip
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *(chr(code) for code in range(33, 127))]
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    return diffusers.Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(4, levels=4), text_encoder=Gemma2Model(config), tokenizer=tokenizer,
        transformer=transformer,
    )  # fmt: skip


def _pixart(changes: dict[str, Any]) -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        **{
            "sample_size": 32, "num_layers": 1, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 3,
            "caption_channels": WIDTH, "in_channels": 4, "cross_attention_dim": 24, "out_channels": 8, "attention_type": "default",
            "use_additional_conditions": False, **changes,
        }
    )  # fmt: skip
    return diffusers.PixArtSigmaPipeline(
        scheduler=diffusers.DPMSolverMultistepScheduler(), vae=_vae(4, levels=4), text_encoder=_t5(), tokenizer=_t5_tokenizer(),
        transformer=transformer,
    )  # fmt: skip


_BUILDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "flux": _flux,
    "sd3": _sd3,
    "qwen_image": _qwen_image,
    "z_image": _z_image,
    "lumina2": _lumina2,
    "pixart": _pixart,
}
