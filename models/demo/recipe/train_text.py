"""First training of the text encoder: every state from the end token on must know what the caption says.

Without it the denoiser's gradient alone leaves the shape words on one axis, and shapes never come.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import nn

from . import networks
from .captions import LABELS, caption, nothing
from .scenes import draw_scene
from .tokenizer import write_tokenizer

_FIELDS = {"shape": "shape", "colour": "colour", "background": "background", "pattern": "pattern", "size": "size", "position": "position"}


def main() -> None:
    """Train and write `<out>/text.pt` and `<out>/tokenizer/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = write_tokenizer(args.out / "tokenizer")
    encoder = networks.text_encoder(len(tokenizer))
    heads = nn.ModuleDict({name: nn.Linear(networks.CROSS_DIM, len(answers) + 1) for name, answers in LABELS.items()})
    optimiser = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.05)
    for step in range(args.steps):
        scenes = [None if rng.random() < 0.1 else draw_scene(rng, held_out=False) for _ in range(64)]
        texts = [nothing(rng) if scene is None else caption(scene, rng) for scene in scenes]
        batch = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        ends = (batch == tokenizer.eos_token_id).int().argmax(1)
        states = encoder(batch).last_hidden_state
        places = torch.tensor([[rng.randint(int(end), 76) for _ in range(4)] for end in ends])
        picked = states[torch.arange(len(texts))[:, None], places]
        loss = torch.zeros(())
        right = []
        for name, answers in LABELS.items():
            wanted = torch.tensor([len(answers) if scene is None else answers.index(getattr(scene, _FIELDS[name])) for scene in scenes])
            logits = heads[name](picked)
            loss = loss + nn.functional.cross_entropy(logits.flatten(0, 1), wanted.repeat_interleave(4))
            right.append((logits.argmax(-1) == wanted[:, None]).float().mean().item())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps - 1:
            print(f"text {step} loss {loss.item():.4f} right " + " ".join(f"{r:.3f}" for r in right), flush=True)
    torch.save(encoder.state_dict(), args.out / "text.pt")


if __name__ == "__main__":
    main()
