"""Trains the denoiser, with the text encoder, on latents of fresh drawings.

Epsilon prediction on SD 1.x's noise schedule. Two things are unusual, and the model card says why:

- the world opens step by step (`wide`): one middling shape on a plain background first, variety later;
- later the conditional prediction c is trained so that  u + G (c - u)  is the right answer, u being the model's own prediction
  without a caption and G = `--guidance` (4). Clients of the hosted services send guidance 7.5 to any sampler; a model trained in
  the ordinary way is over-driven by it, one trained this way sees it as a moderate guidance of about 1.9.

Several processes may train together (`--rank`, `--world`): they average their weights every few steps.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor, nn
from transformers import CLIPTokenizer

from . import latents, networks
from .captions import caption, nothing
from .detector import detect
from .drawing import draw
from .scenes import Scene, draw_scene

Size = tuple[int, int]
_BATCH = {128: 20, 256: 8, 512: 2}
NOISE_SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Pool:
    """Drawn latents and their scenes, one shelf per picture size; a few are drawn anew each time it is asked."""

    def __init__(self, rng: random.Random, *, capacity: int, fresh: int) -> None:
        self._rng = rng
        self._capacity = capacity
        self._fresh = fresh
        self._shelves: dict[Size, list[tuple[Tensor, Scene]]] = {}

    def take(self, size: Size, count: int, wide: float) -> tuple[Tensor, list[Scene]]:
        """`count` latents with their scenes."""
        shelf = self._shelves.setdefault(size, [])
        wanted = max(self._fresh, count - len(shelf))
        scenes = [self._scene(wide) for _ in range(wanted)]
        drawn = latents.encode(latents.to_pixels([draw(scene, *size) for scene in scenes]))
        shelf.extend(zip(drawn, scenes, strict=True))
        del shelf[: max(0, len(shelf) - self._capacity)]
        chosen = self._rng.sample(shelf, count)
        return torch.stack([z for z, _ in chosen]), [scene for _, scene in chosen]

    def _scene(self, wide: float) -> Scene:
        """Out of the middle and small is where shapes are hardest: once the world is open, most scenes are of that kind."""
        scene = draw_scene(self._rng, wide=wide)
        if wide == 1 and self._rng.random() < 0.7:
            while scene.position == "centre" and scene.size != "small":
                scene = draw_scene(self._rng, wide=wide)
        return scene


def plan(progress: float, rng: random.Random) -> tuple[Size, float]:
    """Picture size and openness of the world at that share of the training."""
    wide = min(1.0, max(0.0, (progress - 0.12) / 0.25))
    weights = (0.75, 0.25, 0.0) if progress < 0.15 else (0.4, 0.4, 0.2) if progress < 0.35 else (0.2, 0.25, 0.55)
    side = rng.choices((128, 256, 512), weights=weights)[0]
    if progress > 0.3 and rng.random() < 0.1:
        long = side * 3 // 2
        return rng.choice(((side, long), (long, side))), wide
    return (side, side), wide


def main() -> None:
    """Train and write `<out>/unet.pt`: weights, averaged weights, optimiser and step, to go on from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--cool", type=float, default=0.3, help="share of the steps in which the learning rate falls to zero")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--check-every", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{args.port}", rank=args.rank, world_size=args.world)
    Training(args).run()


class Training:
    """One process's share of the training."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.file: Path = args.out / "unet.pt"
        self.tokenizer = CLIPTokenizer.from_pretrained(args.out / "tokenizer")
        torch.manual_seed(args.seed)
        self.unet = networks.unet()
        self.text = networks.text_encoder(len(self.tokenizer))
        self.text.load_state_dict(torch.load(args.out / "text.pt"))
        self.unet.to(memory_format=torch.channels_last)
        groups = [{"params": self.unet.parameters(), "scale": 1.0}, {"params": self.text.parameters(), "scale": 0.1}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.averaged = (copy.deepcopy(self.unet).requires_grad_(False), copy.deepcopy(self.text).requires_grad_(False))
        self.step = 0
        if self.file.exists():
            saved = torch.load(self.file)
            self.step = saved["step"]
            for module, name in ((self.unet, "unet"), (self.text, "text"), (self.averaged[0], "unet_ema"), (self.averaged[1], "text_ema")):
                module.load_state_dict(saved[name])
            self.optimiser.load_state_dict(saved["optimiser"])
        self.rng = random.Random(args.seed + 1000 * args.rank + self.step)
        torch.manual_seed(args.seed + 1000 * args.rank + self.step)
        self.pool = Pool(self.rng, capacity=4000, fresh=4)
        self.alphas = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod

    def run(self) -> None:
        """All steps from the saved one on."""
        started, first, running = time.monotonic(), self.step, 0.0
        while self.step < self.args.steps:
            loss = self._one_step(limit=8 * running if self.step > first + 100 else math.inf)
            running += (min(loss, 8 * running if running else loss) - running) * 0.02
            self.step += 1
            if self.args.world > 1 and self.step % 8 == 0:
                self._average_ranks()
            if self.args.rank:
                continue
            if self.step % 100 == 0:
                rate = (self.step - first) / (time.monotonic() - started)
                print(f"unet {self.step} loss {running:.4f} {rate:.2f} steps/s", flush=True)
            if self.step % 500 == 0 or self.step == self.args.steps:
                self.save()
            if self.step % self.args.check_every == 0 or self.step == self.args.steps:
                print(f"check {self.step} " + self.check(), flush=True)

    def _one_step(self, *, limit: float) -> float:
        """The loss. One above `limit` teaches nothing: a rare batch would undo hundreds of steps."""
        progress = self.step / self.args.steps
        size, wide = plan(progress, self.rng)
        clean, scenes = self.pool.take(size, _BATCH[min(size)], wide)
        told = [self.rng.random() >= 0.12 for _ in scenes]
        texts = [caption(scene, self.rng) if tell else nothing(self.rng) for scene, tell in zip(scenes, told, strict=True)]
        share = min(1.0, max(0.0, (progress - 0.25) / 0.15))
        factor = 1 + share * (self.args.guidance - 1)

        count = len(scenes)
        high = {128: 0.85, 256: 0.8, 512: 0.75}[min(size)]
        t = (1000 * torch.rand(count) ** high).long().clamp(0, 999)
        noise = torch.randn_like(clean) + 0.05 * torch.randn(count, 4, 1, 1)
        signal = self.alphas[t].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise

        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = None
            if factor > 1:
                with torch.no_grad():
                    plain = self.unet(noisy, t, self._encode([""]).expand(count, -1, -1)).sample.float()
            predicted = self.unet(noisy, t, self._encode(texts)).sample.float()
        if plain is not None:
            guided = plain + factor * (predicted - plain)
            predicted = torch.where(torch.tensor(told).view(-1, 1, 1, 1), guided, predicted)
        variance = ((1 - signal) / signal).flatten()
        weight = (1 + variance / latents.LATENT_STD**2).clamp(max=100)
        loss = (weight * (predicted - noise).square().mean((1, 2, 3))).mean()
        rate = self._learning_rate(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimiser.zero_grad()
        if not loss.item() < limit:
            return loss.item()
        loss.backward()
        for parameter in self.unet.parameters():
            if parameter.grad is not None and parameter.grad.dim() == 4:
                parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)
        nn.utils.clip_grad_norm_([*self.unet.parameters(), *self.text.parameters()], 1.0)
        self.optimiser.step()
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        for average, current in zip(self.averaged, (self.unet, self.text), strict=True):
            torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
        return loss.item()

    def _encode(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        states: Tensor = self.text(ids).last_hidden_state
        return states

    def _learning_rate(self, progress: float) -> float:
        if self.step < 80:
            return float(self.args.lr * (self.step + 1) / 80)
        falling = max(0.0, (progress - (1 - self.args.cool)) / self.args.cool)
        return float(self.args.lr * 0.5 * (1 + math.cos(math.pi * falling)))

    @torch.no_grad()
    def _average_ranks(self) -> None:
        weights = [*self.unet.parameters(), *self.text.parameters()]
        flat = torch.cat([weight.reshape(-1) for weight in weights])
        dist.all_reduce(flat)
        for weight, mean in zip(weights, (flat / self.args.world).split([w.numel() for w in weights]), strict=True):
            weight.copy_(mean.view(weight.shape))

    def save(self) -> None:
        """Write everything that going on needs, in one step."""
        part = self.file.with_suffix(".part")
        modules = {"unet": self.unet, "text": self.text, "unet_ema": self.averaged[0], "text_ema": self.averaged[1]}
        weights = {name: module.state_dict() for name, module in modules.items()}
        torch.save({"step": self.step, **weights, "optimiser": self.optimiser.state_dict()}, part)
        part.replace(self.file)

    @torch.no_grad()
    def check(self) -> str:
        """Share of held-out scenes whose rough picture (no decoder) shows background, colour and shape; guidance 7.5 and 2."""
        unet, text = self.averaged
        rng = random.Random(99)
        parts = []
        for side, count, guidance in ((128, 32, 7.5), (256, 16, 7.5), (256, 16, 2.0)):
            scenes = [draw_scene(rng, wide=0, held_out=True) for _ in range(count)]
            wording = [caption(scene, rng, fillers=False) for scene in scenes]
            ids = self.tokenizer(["", *wording], padding="max_length", max_length=77, return_tensors="pt").input_ids
            states = text(ids).last_hidden_state
            context = torch.cat([states[:1].expand(count, -1, -1), states[1:]])
            scheduler = EulerDiscreteScheduler(**NOISE_SCHEDULE)
            scheduler.set_timesteps(20)
            z = torch.randn(count, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(5)) * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(torch.cat([z, z]), t)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    u, c = unet(scaled, t, context).sample.float().chunk(2)
                z = scheduler.step(u + guidance * (c - u), t, z).prev_sample
            findings = [detect(picture) for picture in latents.preview(z)]
            pairs = list(zip(findings, scenes, strict=True))
            figures = [sum(getattr(f, k) == getattr(s, k) for f, s in pairs) / count for k in ("background", "colour", "shape")]
            parts.append(f"{side}px g{guidance}: " + "/".join(f"{100 * x:.0f}" for x in figures))
        return "  ".join(parts)


if __name__ == "__main__":
    main()
