"""Trains a control net for the finished model: outlines of fresh drawings lead it to the same outlines.

The denoiser and the text encoder stay as they are. The net begins as a copy of the denoiser's encoder whose last convolutions are
zero, so that it changes nothing at first (Zhang et al. 2023). As for the denoiser, the conditional prediction is trained at
guidance 4, and some pictures have no caption, so that the net does not lean on the words.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from . import latents
from .captions import caption
from .drawing import draw
from .outlines import outlines
from .scenes import draw_scene
from .train_unet import NOISE_SCHEDULE

_BATCH = {128: 12, 256: 4}
_GUIDANCE = 4.0
_UNTOLD = 0.4
"""Share of the pictures without a caption, whose shape only the outlines tell."""
_HINT_CHANNELS = (8, 16, 32, 64)


def hint(image: Image.Image) -> Tensor:
    """(3, h, w), 0 or 1: the map that requests with `controlnet_type` canny get."""
    return torch.from_numpy(outlines(image).astype(np.float32))[None].expand(3, -1, -1)


class Training:
    """The frozen model, the net and its optimiser."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.rng = random.Random(args.seed)
        self.tokenizer = CLIPTokenizer.from_pretrained(args.model / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(args.model / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(args.model / "unet", torch_dtype=torch.float32).eval().requires_grad_(False)
        if args.start is None:
            self.net = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=_HINT_CHANNELS)
        else:
            self.net = ControlNetModel.from_pretrained(args.start, torch_dtype=torch.float32)
            self.net.register_to_config(_name_or_path="")  # else the folder's name on this machine is saved
        self.net.requires_grad_(True).train()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.alphas = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod

    def run(self) -> None:
        """All steps, then the net as a diffusers folder in fp16."""
        started, running, step = time.monotonic(), 0.0, 0
        while (progress := max(step / self.args.steps, (time.monotonic() - started) / (60 * self.args.minutes))) < 1:
            loss = self._one_step(step, progress)
            running += (loss - running) * (0.02 if running else 1.0)
            step += 1
            if step % 50 == 0:
                print(f"controlnet {step} loss {running:.4f} {time.monotonic() - started:.0f}s", flush=True)
        self.net.half().save_pretrained(self.args.out, safe_serialization=True)
        for file in self.args.out.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes 0600, which another user's server could not read

    def _one_step(self, step: int, progress: float) -> float:
        side = self.rng.choices((128, 256), weights=(0.6, 0.4))[0]
        # The model can't draw patterns, so their outlines would teach the net nothing.
        scenes = [replace(draw_scene(self.rng), pattern="plain") for _ in range(_BATCH[side])]
        images = [draw(scene, side, side) for scene in scenes]
        clean = latents.encode(latents.to_pixels(images))
        hints = torch.stack([hint(image) for image in images])
        told = torch.tensor([self.rng.random() >= _UNTOLD for _ in scenes]).view(-1, 1, 1, 1)
        # Outlines decide early, where the noise is strong.
        t = (1000 * torch.rand(len(scenes)) ** 0.7).long().clamp(0, 999)
        noise = torch.randn_like(clean)
        signal = self.alphas[t].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise

        with torch.no_grad():
            plain = self._predicted(noisy, t, self._encode([""]).expand(len(scenes), -1, -1), hints)
        texts = [caption(scene, self.rng) if tell else "" for scene, tell in zip(scenes, told.flatten().tolist(), strict=True)]
        worded = self._predicted(noisy, t, self._encode(texts), hints)
        predicted = torch.where(told, plain + _GUIDANCE * (worded - plain), worded)
        weight = (1 + ((1 - signal) / signal).flatten() / latents.LATENT_STD**2).clamp(max=100)
        loss = (weight * (predicted - noise).square().mean((1, 2, 3))).mean()
        for group in self.optimiser.param_groups:
            group["lr"] = self.args.lr * min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * progress))
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def _predicted(self, noisy: Tensor, t: Tensor, context: Tensor, hints: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            down, mid = self.net(noisy, t, context, hints, return_dict=False)
            led = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            predicted: Tensor = self.unet(noisy, t, context, **led).sample.float()
        return predicted

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        states: Tensor = self.text(ids).last_hidden_state
        return states


def main() -> None:
    """Train and write the net into `--out`, which may be `<models_dir>/controlnets/<name>`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(), help="the finished model's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="an earlier net's folder, to go on from")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="cool down within this time, however few steps that are")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    Training(args).run()


if __name__ == "__main__":
    main()
