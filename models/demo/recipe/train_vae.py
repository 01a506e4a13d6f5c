"""Trains the autoencoder: the encoder to compute the hand-made latent, the decoder to draw the picture from a noisy one."""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from . import latents, networks
from .drawing import draw
from .scenes import draw_scene


def main() -> None:
    """Train and write `<out>/vae.pt`, every 500 steps and at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    vae = networks.autoencoder().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / args.steps)))
    )
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    for step in range(args.steps):
        side, count = rng.choices(((128, 8), (256, 2), (512, 1)), weights=(0.6, 0.3, 0.1))[0]
        pixels = latents.to_pixels([draw(draw_scene(rng), side, side) for _ in range(count)])
        if side == 512:
            pixels = pixels[:, :, (top := 8 * rng.randrange(32)) : top + 256, (left := 8 * rng.randrange(32)) : left + 256]
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        target = latents.encode(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            noisy = target + torch.randn_like(target) * 0.06 * latents.LATENT_STD * rng.random()
            picture = vae.decode(noisy / latents.SCALING_FACTOR).sample
        encoding = (posterior.mean.float() * latents.SCALING_FACTOR - target).square().mean() / latents.LATENT_STD**2
        # The posterior's spread is a constant: a small one, so that sampling from it changes nothing to be seen.
        spread = (posterior.logvar.float() + 12).square().mean()
        drawing = _difference(picture.float(), pixels)
        loss = drawing + encoding + 1e-3 * spread
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps - 1:
            psnr = -10 * math.log10((picture.float().clamp(-1, 1) - pixels).square().mean().item() / 4)
            losses = f"drawing {drawing.item():.4f} psnr {psnr:.1f} encoding {encoding.item():.5f}"
            print(f"vae {step} side {side} {losses} {time.monotonic() - started:.0f}s", flush=True)
        if step % 500 == 499 or step == args.steps - 1:
            torch.save(vae.state_dict(), args.out / "vae.pt")


def _difference(picture: Tensor, pixels: Tensor) -> Tensor:
    error = picture - pixels
    return error.abs().mean() + 2 * error.square().mean()


if __name__ == "__main__":
    main()
