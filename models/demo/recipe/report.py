"""Judges the demo model: prompts of combinations training never saw, every size and sampler, and a contact sheet to look at.

`make demo-model-report` prints the table of the model card. Pictures are drawn by diffusers' own pipeline, so the figures speak of
the model and not of the server.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from PIL import Image, ImageDraw

from .captions import caption
from .detector import Finding, detect
from .scenes import Scene, draw_scene

SAMPLERS = {
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "DDIM": "DDIMScheduler",
    "PNDM": "PNDMScheduler",
    "Heun": "HeunDiscreteScheduler",
    "LMS": "LMSDiscreteScheduler",
}


@dataclass(frozen=True)
class Judged:
    """One picture, what it should show and what it shows."""

    prompt: str
    scene: Scene
    finding: Finding
    image: Image.Image


def prompts(count: int) -> list[tuple[str, Scene]]:
    """The same held-out prompts every time: combinations of shape and colours that training left out, in the grammar's words."""
    rng = random.Random(2024)
    scenes = [draw_scene(rng, held_out=True) for _ in range(count)]
    return [(caption(scene, rng, fillers=False), scene) for scene in scenes]


def judge(pipeline: diffusers.StableDiffusionPipeline, asked: list[tuple[str, Scene]], side_px: int, batch: int) -> list[Judged]:
    """Draw each prompt at 20 steps, guidance 7.5, seed = its place in the list."""
    judged = []
    for first in range(0, len(asked), batch):
        part = asked[first : first + batch]
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        images = pipeline(
            [prompt for prompt, _ in part], width=side_px, height=side_px, num_inference_steps=20, guidance_scale=7.5, generator=generators
        ).images
        judged += [Judged(prompt, scene, detect(image), image) for (prompt, scene), image in zip(part, images, strict=True)]
    return judged


def shares(judged: list[Judged]) -> Iterator[tuple[str, float, int]]:
    """(question, share right, out of) for background, colour, shape, all three; and size, position, pattern scenes where named."""
    for name in ("background", "colour", "shape"):
        yield name, _mean(getattr(j.finding, name) == getattr(j.scene, name) for j in judged), len(judged)
    yield "all three", _mean(j.finding.shows(j.scene) for j in judged), len(judged)
    for name, ordinary in (("size", "medium"), ("position", "centre")):
        named = [j for j in judged if getattr(j.scene, name) != ordinary]
        yield name, _mean(getattr(j.finding, name) == getattr(j.scene, name) for j in named), len(named)


def _mean(values: Iterator[bool]) -> float:
    rights = list(values)
    return sum(rights) / max(1, len(rights))


def sheet(judged: list[Judged], columns: int = 10, tile_px: int = 128) -> Image.Image:
    """All pictures with their prompts; a red frame where the detector disagrees."""
    rows = -(-len(judged) // columns)
    page = Image.new("RGB", (columns * tile_px, rows * (tile_px + 24)), "white")
    pen = ImageDraw.Draw(page)
    for i, j in enumerate(judged):
        x, y = i % columns * tile_px, i // columns * (tile_px + 24)
        page.paste(j.image.resize((tile_px, tile_px), Image.Resampling.LANCZOS), (x, y))
        if not j.finding.shows(j.scene):
            pen.rectangle((x, y, x + tile_px - 1, y + tile_px - 1), outline="red", width=3)
        pen.text((x + 2, y + tile_px), j.prompt[:21], fill="black")
        pen.text((x + 2, y + tile_px + 11), j.prompt[21:42], fill="black")
    return page


def main() -> None:
    """Print the table and write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path())
    parser.add_argument("--count", type=int, default=104)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512])
    parser.add_argument("--samplers", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--sheet", type=Path, default=Path("contact-sheet.png"))
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(args.model, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline.scheduler
    asked = prompts(args.count)
    print(f"{args.count} held-out prompts, 20 steps, guidance 7.5; percent right")
    for label, side, class_name in [
        *((f"default ({type(own).__name__})", side, None) for side in args.sizes),
        *((label, 256, SAMPLERS[label]) for label in args.samplers),
    ]:
        pipeline.scheduler = own if class_name is None else getattr(diffusers, class_name).from_config(own.config)
        started = time.monotonic()
        judged = judge(pipeline, asked, side, batch={128: 16, 256: 8}.get(side, 2))
        figures = "  ".join(f"{name} {100 * share:5.1f} (n={n})" for name, share, n in shares(judged))
        print(f"{label:24} {side:4} px  {figures}  {(time.monotonic() - started) / len(asked):.2f} s/picture", flush=True)
        if class_name is None and side == 256:
            sheet(judged).save(args.sheet)


if __name__ == "__main__":
    main()
