"""The four networks' configurations: SD 1.x architecture from diffusers and transformers, made small."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .latents import SCALING_FACTOR

CROSS_DIM = 64


def text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """Two layers, 64 wide; the last two ids are start and end of text."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size, hidden_size=CROSS_DIM, intermediate_size=4 * CROSS_DIM, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, projection_dim=CROSS_DIM, bos_token_id=vocabulary_size - 2, eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )  # fmt: skip


def unet() -> UNet2DConditionModel:
    """4.6 M parameters; starts as the identity from noisy latent to predicted noise."""
    net = UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, block_out_channels=(32, 64, 96, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CROSS_DIM, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    _start_as_identity(net)
    return net


@torch.no_grad()
def _start_as_identity(net: UNet2DConditionModel) -> None:
    """Wire x and -x from conv_in through the last skip connection to conv_out: silu(a) - silu(-a) = a.

    Noise is nearly the whole input at most timesteps, so a network that begins by answering its input begins almost right.
    """
    middle = net.conv_in.weight.shape[-1] // 2
    net.conv_in.weight[:8] = 0
    net.conv_in.bias[:8] = 0
    for i in range(4):
        net.conv_in.weight[i, i, middle, middle] = 1
        net.conv_in.weight[4 + i, i, middle, middle] = -1
    last = net.up_blocks[-1].resnets[-1]
    width = last.conv2.weight.shape[0]
    last.conv2.weight.zero_()
    last.conv2.bias.zero_()
    last.conv_shortcut.weight[:8] = 0
    last.conv_shortcut.bias[:8] = 0
    for i in range(8):
        # The skip connection's channels come after the hidden ones.
        last.conv_shortcut.weight[i, last.conv_shortcut.weight.shape[1] - width + i] = 1
    net.conv_out.weight.mul_(0.1)
    net.conv_out.weight[:, :8] = 0
    net.conv_out.bias.zero_()
    for i in range(4):
        net.conv_out.weight[i, i, middle, middle] = 1
        net.conv_out.weight[i, 4 + i, middle, middle] = -1


def autoencoder() -> AutoencoderKL:
    """1 M parameters, 4 latent channels, 8 px per latent cell."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32, 64, 64), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8, sample_size=256, scaling_factor=SCALING_FACTOR,
    )  # fmt: skip
