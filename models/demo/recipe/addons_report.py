"""Judges the demo model's control net and LoRA: drawings of held-out scenes, and a contact sheet to look at.

`make demo-addons-report` prints the tables of the model card. Pictures are drawn by diffusers' own pipelines at 20 steps and
guidance 7.5, so the figures speak of the weights and not of the server.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from .captions import caption
from .detector import detect
from .drawing import draw
from .outlines import agreement, outlines
from .scenes import COLOURS, Scene, draw_scene
from .styles import detect_night

_TILE_PX = 104
_ON_THE_SHEET = 6


@dataclass(frozen=True)
class Asked:
    """What is drawn once with an add-on and once without."""

    scene: Scene
    prompt: str


def control_cases(count: int, *, wording: str) -> list[Asked]:
    """Held-out scenes for their outlines, and prompts that don't tell them: in `other` colours, or naming `another` shape.

    Patterns are left out, which the model can't draw, and colours so like each other that no outline is found between them.
    """
    rng = random.Random(77)
    cases: list[Asked] = []
    while len(cases) < count:
        scene = replace(draw_scene(rng, held_out=True), pattern="plain")
        ink, ground = rng.sample(sorted(COLOURS), 2)
        another = draw_scene(rng)
        if _is_clear(scene) and _is_clear(replace(scene, colour=ink, background=ground)):
            prompts = {"other": f"a {ink} thing on a {ground} background", "another": caption(another, rng, fillers=False)}
            cases.append(Asked(scene, prompts[wording]))
    return cases


def _is_clear(scene: Scene) -> bool:
    """Whether the outline of its drawing is all there."""
    clear = replace(scene, colour="black", background="white")
    return agreement(outlines(draw(scene, 128, 128)), outlines(draw(clear, 128, 128))) > 0.95


def lora_cases(count: int) -> list[Asked]:
    """Held-out prompts as the model's own report has them."""
    rng = random.Random(2024)
    scenes = [draw_scene(rng, held_out=True) for _ in range(count)]
    return [Asked(scene, caption(scene, rng, fillers=False)) for scene in scenes]


class Studio:
    """The finished model with and without its control net and LoRA."""

    def __init__(self, model: Path, net: Path | None, lora: Path | None) -> None:
        self.plain = diffusers.StableDiffusionPipeline.from_pretrained(model, local_files_only=True, dtype=torch.float32)
        self.plain.set_progress_bar_config(disable=True)
        self.led = None
        if net is not None:
            loaded = diffusers.ControlNetModel.from_pretrained(net, torch_dtype=torch.float32)
            parts = {**self.plain.components, "controlnet": loaded}
            self.led = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
            self.led.set_progress_bar_config(disable=True)
        self._lora = {} if lora is None else load_file(lora)

    def draw(
        self, asked: Sequence[Asked], side_px: int, *, is_led: bool = False, lora: float = 0.0, scale: float = 1.0
    ) -> list[Image.Image]:
        """One picture each; its seed is its place in the list."""
        images: list[Image.Image] = []
        with self._styled(lora):
            for first in range(0, len(asked), 8):
                part = asked[first : first + 8]
                common = {
                    "prompt": [one.prompt for one in part],
                    "width": side_px,
                    "height": side_px,
                    "num_inference_steps": 20,
                    "guidance_scale": 7.5,
                    "generator": [torch.Generator().manual_seed(first + i) for i in range(len(part))],
                }
                if is_led:
                    maps = [Image.fromarray(np.uint8(255) * outlines(draw(one.scene, side_px, side_px))).convert("RGB") for one in part]
                    images += self.led(image=maps, controlnet_conditioning_scale=scale, **common).images
                else:
                    images += self.plain(**common).images
        return images

    @contextmanager
    def _styled(self, strength: float) -> Iterator[None]:
        """While it is open, the denoiser has the LoRA added."""
        with ExitStack() as hooks:
            for path, module in self.plain.unet.named_modules() if strength else ():
                name = f"lora_unet_{path.replace('.', '_')}"
                if f"{name}.lora_down.weight" in self._lora:
                    down, up = (self._lora[f"{name}.lora_{part}.weight"].float() for part in ("down", "up"))
                    scale = strength * float(self._lora[f"{name}.alpha"]) / len(down)
                    hooks.callback(module.register_forward_hook(_adding(down, up, scale)).remove)
            yield


def _adding(down: torch.Tensor, up: torch.Tensor, scale: float):  # noqa: ANN202 - torch's own type of hooks is not exported
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(module, nn.Conv2d):
            inner = nn.functional.conv2d(args[0], down, None, module.stride, module.padding)
            return output + nn.functional.conv2d(inner, up) * scale
        return output + args[0] @ down.T @ up.T * scale

    return hook


def agreements(asked: Sequence[Asked], images: Sequence[Image.Image], side_px: int) -> list[float]:
    """How far the outlines of each picture are those of its scene."""
    return [agreement(outlines(image), outlines(draw(one.scene, side_px, side_px))) for one, image in zip(asked, images, strict=True)]


def report_control(studio: Studio, count: int, sizes: Sequence[int]) -> None:
    """Print the control net's table."""
    print(f"control net: {count} held-out drawings, mean F1 of outlines within 3 px, and shapes right, with and without it")
    for wording in ("other", "another"):
        asked = control_cases(count, wording=wording)
        for side in sizes:
            figures = []
            for is_led in (True, False):
                images = studio.draw(asked, side, is_led=is_led)
                f1 = agreements(asked, images, side)
                shapes = np.mean([detect(image).shape == one.scene.shape for one, image in zip(asked, images, strict=True)])
                off = [value for one, value in zip(asked, f1, strict=True) if one.scene.position != "centre"]
                figures.append(f"F1 {np.mean(f1):.3f} (out of the middle {np.mean(off):.3f}, n={len(off)})  shape {100 * shapes:5.1f}")
            print(f"{wording:8} {side:4} px  with: {figures[0]}  without: {figures[1]}", flush=True)


def report_lora(studio: Studio, count: int, sizes: Sequence[int]) -> None:
    """Print the LoRA's table."""
    asked = lora_cases(count)
    print(f"LoRA: {count} held-out prompts, percent by night, with a dark blue sky, with a yellow light, of the prompt's shape")
    for side in sizes:
        for strength in (0.0, 0.5, 1.0):
            seen = [detect_night(image) for image in studio.draw(asked, side, lora=strength)]
            right = np.mean([night.shape == one.scene.shape for night, one in zip(seen, asked, strict=True)])
            shares = [np.mean([getattr(night, name) for night in seen]) for name in ("is_night", "has_dark_blue_sky", "has_yellow_light")]
            print(f"strength {strength:4} {side:4} px  " + "  ".join(f"{100 * share:5.1f}" for share in (*shares, right)), flush=True)


def sheet(studio: Studio, side_px: int = 256) -> Image.Image:
    """Rows: outlines, led by them, the same without; prompts drawn with the LoRA at 0, 0.5 and 1; led with the LoRA."""
    led, told = control_cases(_ON_THE_SHEET, wording="other"), lora_cases(_ON_THE_SHEET)
    rows = [
        [Image.fromarray(np.uint8(255) * outlines(draw(one.scene, side_px, side_px))).convert("RGB") for one in led],
        studio.draw(led, side_px, is_led=True),
        studio.draw(led, side_px),
        *(studio.draw(told, side_px, lora=strength) for strength in (0.0, 0.5, 1.0)),
        studio.draw(led, side_px, is_led=True, lora=1.0),
    ]
    page = Image.new("RGB", (_ON_THE_SHEET * _TILE_PX, len(rows) * _TILE_PX), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            page.paste(image.resize((_TILE_PX - 2, _TILE_PX - 2), Image.Resampling.LANCZOS), (x * _TILE_PX + 1, y * _TILE_PX + 1))
    return page


def main() -> None:
    """Print the tables and write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path())
    parser.add_argument("--net", type=Path, default=Path("assets/controlnets/demo-canny"))
    parser.add_argument("--lora", type=Path, default=Path("assets/loras/demo-night.safetensors"))
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256])
    parser.add_argument("--sheet", type=Path, default=Path("addons-sheet.png"))
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    net, lora = (path if path.exists() else None for path in (args.net, args.lora))
    studio = Studio(args.model, net, lora)
    if net is not None:
        report_control(studio, args.count, args.sizes)
    if lora is not None:
        report_lora(studio, args.count, args.sizes)
    if net is not None and lora is not None:
        sheet(studio).quantize(128).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
