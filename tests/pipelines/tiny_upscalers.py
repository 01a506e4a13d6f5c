"""Real, tiny, random models of diffusers' own upscaling pipelines, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from sdapi.pipelines.loading.loader import quiet_loading

from .tiny_whole import WIDTH, _clip_config, _clip_tokenizer

_LOUDNESS = 2


def write_upscaling_folder(folder: Path, name: str) -> Path:
    """Save a tiny "x4" or "latent" pipeline."""
    torch.manual_seed(0)
    with quiet_loading(), torch.no_grad():
        pipe = _x4() if name == "x4" else _latent()
        for weight in pipe.unet.parameters():
            # So that the picture and the words are seen in the result; networks this small hardly pass them on as they begin.
            if weight.ndim > 1:
                weight.mul_(_LOUDNESS)
        pipe.save_pretrained(folder)
    return folder


def _vae(levels: int, scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, scaling_factor=scaling_factor,
    )  # fmt: skip


def _x4() -> Any:
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=16, in_channels=7, out_channels=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, cross_attention_dim=WIDTH, use_linear_projection=True, only_cross_attention=(True, False),
        num_class_embeds=100,
    )  # fmt: skip
    return diffusers.StableDiffusionUpscalePipeline(
        vae=_vae(3, 0.08333), text_encoder=CLIPTextModel(_clip_config()), tokenizer=_clip_tokenizer(), unet=unet,
        low_res_scheduler=DDPMScheduler(), scheduler=DDIMScheduler(prediction_type="v_prediction"), max_noise_level=350,
    )  # fmt: skip


def _latent() -> Any:
    unet = UNet2DConditionModel(
        act_fn="gelu", attention_head_dim=8, norm_num_groups=None, block_out_channels=(32, 32, 64, 64), time_cond_proj_dim=128 + WIDTH,
        conv_in_kernel=1, conv_out_kernel=1, cross_attention_dim=WIDTH, in_channels=8,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3), mid_block_type=None, only_cross_attention=False,
        out_channels=5, resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier", timestep_post_act="gelu", up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
    )  # fmt: skip
    return diffusers.StableDiffusionLatentUpscalePipeline(
        vae=_vae(4, 0.18215), text_encoder=CLIPTextModel(_clip_config()), tokenizer=_clip_tokenizer(), unet=unet,
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )  # fmt: skip
