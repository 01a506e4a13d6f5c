"""How much arithmetic a picture is, and how much of it the device does at its best."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

_GUIDED = 2
"""Samples of a UNet forward for each picture: with the prompt and without."""
_TOKENS = 77
_TIME_IDS = 6
_ROUNDS, _REPEATS = 3, 20
_SIDE, _CPU_SIDE, _DRY_SIDE = 8192, 2048, 512
"""Of the matrices."""


@dataclass(frozen=True)
class Arithmetic:
    """FLOP of one picture; a multiplication and an addition are two. Prompts, of less than a hundredth, are left out."""

    unet_step: float
    """Both samples."""
    vae: float

    def picture(self, steps: int) -> float:
        """All of it."""
        return self.unet_step * steps + self.vae


def arithmetic(folder: Path, side_px: int) -> Arithmetic:
    """Of square pictures by a checkpoint in the diffusers layout; counted by torch on tensors without contents."""
    with torch.device("meta"), torch.no_grad():
        unet: Any = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        vae: Any = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
        latent_px = side_px // 2 ** (len(vae.config.block_out_channels) - 1)
        sample = torch.empty(_GUIDED, unet.config.in_channels, latent_px, latent_px)
        words = torch.empty(_GUIDED, _TOKENS, unet.config.cross_attention_dim)
        added = None
        if unet.config.addition_embed_type == "text_time":
            ids_width = unet.config.addition_time_embed_dim * _TIME_IDS
            pooled_width = unet.config.projection_class_embeddings_input_dim - ids_width
            added = {"text_embeds": torch.empty(_GUIDED, pooled_width), "time_ids": torch.empty(_GUIDED, _TIME_IDS)}
        step = _flop(lambda: unet(sample, torch.empty(()), words, added_cond_kwargs=added))
        decoding = _flop(lambda: vae.decode(sample[:1]))
    return Arithmetic(step, decoding)


def _flop(call: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def peak_flop_per_s(dtype: torch.dtype, *, dry_run: bool = False) -> float:
    """Of the device's largest products of square matrices, measured: what the data sheet says is never reached."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = _DRY_SIDE if dry_run else _CPU_SIDE if device.type == "cpu" else _SIDE
    repeats = 1 if device.type == "cpu" else _REPEATS
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(_ROUNDS + 1):  # the first lets the library choose its kernel
        started = time.perf_counter()
        for _ in range(repeats):
            one @ other
        _wait(device)
        best_s = min(best_s, (time.perf_counter() - started) / repeats)
    return 2 * side**3 / best_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
