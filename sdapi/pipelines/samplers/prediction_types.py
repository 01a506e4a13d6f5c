"""Whether a UNet predicts noise or velocity, told by asking it once: single files of Stable Diffusion 2.x don't say.

At the last timestep the latents are noise but for half a percent of their power. A UNet that predicts noise gives its input
back then; one that predicts velocity answers with the picture it would draw, negated, which has nothing to do with that noise.
"""

from __future__ import annotations

from typing import Any

import torch

_LATENT_CHANNELS = 4
_SIDE = 16
_LAST_TIMESTEP = 999
_WORDS = 77


@torch.inference_mode()
def predicts_noise(unet: Any) -> bool:
    """One small forward, without words. Raises torch.OutOfMemoryError."""
    device, dtype = unet.device, unet.dtype
    noise = torch.randn((1, _LATENT_CHANNELS, _SIDE, _SIDE), generator=torch.Generator("cpu").manual_seed(0)).to(device, dtype)
    # Inpainting models are shown, besides, that all of a grey picture is to be drawn.
    shown = torch.zeros((1, unet.config.in_channels - _LATENT_CHANNELS, _SIDE, _SIDE), device=device, dtype=dtype)
    shown[:, :1] = 1
    words = torch.zeros((1, _WORDS, unet.config.cross_attention_dim), device=device, dtype=dtype)
    predicted = unet(torch.cat([noise, shown], dim=1), _LAST_TIMESTEP, words, return_dict=False)[0]
    likeness = torch.nn.functional.cosine_similarity(predicted.flatten().float(), noise.flatten().float(), dim=0)
    return float(likeness) > 0.5
