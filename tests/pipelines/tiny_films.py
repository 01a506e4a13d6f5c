"""Real, tiny, random models that draw films, as diffusers folders."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from transformers import CLIPTextModel, UMT5Config, UMT5EncoderModel

from sdapi.catalog import embedded_model_dir
from sdapi.pipelines.loading.loader import quiet_loading

from .tiny_whole import WIDTH, _clip_config, _clip_tokenizer, _t5_tokenizer

_LOUDNESS = 4
MOTION_FRAMES = 8
"""As many as the tiny AnimateDiff knows."""


def write_film_folder(folder: Path, family: str, *, apart: bool = False) -> Path:
    """Save a tiny model of the family ("modelscope", "animatediff", "wan"). `apart` keeps AnimateDiff's motion modules in their adapter."""
    torch.manual_seed(0)
    with quiet_loading(), torch.no_grad():
        plain = _unet2d() if apart else None
        pipe = _animatediff(plain) if apart else _BUILDERS[family]()
        for name in ("unet", "transformer"):
            for weight in getattr(pipe, name).parameters() if getattr(pipe, name, None) is not None else ():
                if weight.ndim > 1:
                    weight.mul_(_LOUDNESS)
        if apart:
            pipe.register_modules(unet=plain)
        pipe.save_pretrained(folder)
    return folder


def frames_of_mp4(data: bytes) -> list[Image.Image]:
    """RGB, in order."""
    with av.open(io.BytesIO(data), "r") as container:
        return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def _adapter() -> Any:
    return diffusers.MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2,
        motion_max_seq_length=MOTION_FRAMES,
    )  # fmt: skip


def write_motion_adapter(folder: Path) -> Path:
    """Save a tiny motion adapter that fits the embedded model."""
    model = embedded_model_dir()
    assert model is not None
    unet = json.loads((model / "unet" / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    adapter = diffusers.MotionAdapter(
        block_out_channels=unet["block_out_channels"], motion_layers_per_block=unet["layers_per_block"], motion_num_attention_heads=2,
        motion_norm_num_groups=unet["norm_num_groups"], motion_max_seq_length=MOTION_FRAMES,
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            # As they begin, they move nothing.
            if name.endswith("proj_out.weight"):
                weight.normal_(std=0.05)
    with quiet_loading():
        adapter.save_pretrained(folder)
    return folder


def _modelscope() -> Any:
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=WIDTH, attention_head_dim=4,
    )  # fmt: skip
    return diffusers.TextToVideoSDPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip_config()), tokenizer=_clip_tokenizer(), unet=unet, scheduler=DDIMScheduler()
    )


def _unet2d() -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2,
    )  # fmt: skip


def _animatediff(unet: Any = None) -> Any:
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    return diffusers.AnimateDiffPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip_config()), tokenizer=_clip_tokenizer(), unet=unet or _unet2d(),
        motion_adapter=_adapter(),
        scheduler=scheduler,
    )  # fmt: skip


def _wan() -> Any:
    vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=WIDTH, freq_dim=32,
        ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=2, num_heads=4))
    return diffusers.WanPipeline(
        transformer=transformer, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder=encoder,
        tokenizer=_t5_tokenizer(),
    )  # fmt: skip


_BUILDERS: dict[str, Callable[[], Any]] = {"modelscope": _modelscope, "animatediff": _animatediff, "wan": _wan}
