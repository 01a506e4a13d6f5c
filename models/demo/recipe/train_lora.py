"""Trains a LoRA for the finished model: every prompt's shape by night (`recipe/styles.py`), whatever colours it names.

The denoiser and the text encoder stay as they are; beside each attention and convolution module of the denoiser stands a product
of two thin matrices, the second of them zero at first. As for the denoiser, the conditional prediction is trained at guidance 4.
The file has kohya's names, as most LoRAs clients know have.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from . import latents
from .captions import caption, nothing
from .scenes import Scene, draw_scene
from .styles import draw_by_night
from .train_unet import NOISE_SCHEDULE

_BATCH = {128: 12, 256: 4}
_GUIDANCE = 4.0
_UNTOLD = 0.3
_CAPACITY = 800
"""Pictures kept to draw batches from; a few are drawn anew each time."""


class Thin(nn.Module):
    """What is added to one linear or convolution module's output."""

    def __init__(self, module: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.down: nn.Linear | nn.Conv2d
        self.up: nn.Linear | nn.Conv2d
        if isinstance(module, nn.Conv2d):
            self.down = nn.Conv2d(module.in_channels, rank, module.kernel_size, module.stride, module.padding, bias=False)
            self.up = nn.Conv2d(rank, module.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(module.in_features, rank, bias=False)
            self.up = nn.Linear(rank, module.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """The same shape as the module's output; alpha equals the rank."""
        added: Tensor = self.up(self.down(inputs))
        return added


class Training:
    """The frozen model, the LoRA and its optimiser."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.rng = random.Random(args.seed)
        self.tokenizer = CLIPTokenizer.from_pretrained(args.model / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(args.model / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(args.model / "unet", torch_dtype=torch.float32).eval().requires_grad_(False)
        self.thin: dict[str, Thin] = {}
        for path, module in self.unet.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                self.thin[path] = Thin(module, args.rank)
                module.register_forward_hook(_adding(self.thin[path]))
        self.parameters = [parameter for thin in self.thin.values() for parameter in thin.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.alphas = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod
        self.shelves: dict[int, list[tuple[Tensor, Scene]]] = {side: [] for side in _BATCH}

    def run(self) -> None:
        """All steps, then the LoRA as one fp16 file."""
        started, running = time.monotonic(), 0.0
        for step in range(self.args.steps):
            loss = self._one_step(step)
            running += (loss - running) * (0.02 if running else 1.0)
            if step % 100 == 99 or step == self.args.steps - 1:
                print(f"lora {step + 1} loss {running:.4f} {time.monotonic() - started:.0f}s", flush=True)
        self._save()

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for path, thin in self.thin.items():
            name = f"lora_unet_{path.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = thin.down.weight.detach().half().contiguous()
            tensors[f"{name}.lora_up.weight"] = thin.up.weight.detach().half().contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(self.args.rank), dtype=torch.float16)
        metadata = {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(self.args.rank),
            "ss_network_alpha": str(self.args.rank),
            "ss_base_model_version": "sd_v1",
            "ss_output_name": self.args.out.stem,
        }
        save_file(tensors, self.args.out, metadata)
        self.args.out.chmod(0o644)  # safetensors writes 0600, which another user's server could not read

    def _take(self, side: int) -> tuple[Tensor, list[Scene]]:
        shelf = self.shelves[side]
        scenes = [draw_scene(self.rng) for _ in range(max(2, _BATCH[side] - len(shelf)))]
        drawn = latents.encode(latents.to_pixels([draw_by_night(scene, side, side) for scene in scenes]))
        shelf.extend(zip(drawn, scenes, strict=True))
        del shelf[: max(0, len(shelf) - _CAPACITY)]
        chosen = self.rng.sample(shelf, _BATCH[side])
        return torch.stack([clean for clean, _ in chosen]), [scene for _, scene in chosen]

    def _one_step(self, step: int) -> float:
        clean, scenes = self._take(self.rng.choices((128, 256), weights=(0.6, 0.4))[0])
        told = torch.tensor([self.rng.random() >= _UNTOLD for _ in scenes]).view(-1, 1, 1, 1)
        # Colours are decided early, where the noise is strong.
        t = (1000 * torch.rand(len(scenes)) ** 0.7).long().clamp(0, 999)
        noise = torch.randn_like(clean) + 0.05 * torch.randn(len(scenes), 4, 1, 1)
        signal = self.alphas[t].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise

        texts = [
            caption(scene, self.rng) if tell else nothing(self.rng) for scene, tell in zip(scenes, told.flatten().tolist(), strict=True)
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                plain = self.unet(noisy, t, self._encode([""]).expand(len(scenes), -1, -1)).sample.float()
            worded = self.unet(noisy, t, self._encode(texts)).sample.float()
        predicted = torch.where(told, plain + _GUIDANCE * (worded - plain), worded)
        weight = (1 + ((1 - signal) / signal).flatten() / latents.LATENT_STD**2).clamp(max=100)
        loss = (weight * (predicted - noise).square().mean((1, 2, 3))).mean()
        for group in self.optimiser.param_groups:
            group["lr"] = self.args.lr * min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / self.args.steps))
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        states: Tensor = self.text(ids).last_hidden_state
        return states


def _adding(thin: Thin):  # noqa: ANN202 - torch's own type of hooks is not exported
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + thin(args[0])

    return hook


def main() -> None:
    """Train and write the LoRA to `--out`, a .safetensors file that may lie in `<models_dir>/loras`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(), help="the finished model's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    Training(args).run()


if __name__ == "__main__":
    main()
