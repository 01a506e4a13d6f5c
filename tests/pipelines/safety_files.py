"""A real safety checker that nobody trained: it finds what looks to a tiny CLIP like the pictures it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil

_SIDE_PX = 32
_EMBEDDED = 16


def red() -> Image.Image:
    """What the installed checker finds unsafe."""
    return Image.new("RGB", (64, 64), (250, 10, 10))


def blue() -> Image.Image:
    """What it does not."""
    return Image.new("RGB", (64, 64), (10, 10, 250))


def processor() -> CLIPImageProcessorPil:
    """At the network's size, otherwise CLIP's own."""
    return CLIPImageProcessorPil(size={"shortest_edge": _SIDE_PX}, crop_size={"height": _SIDE_PX, "width": _SIDE_PX})


@cache
def _network() -> Any:
    torch.manual_seed(3)
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": _SIDE_PX,
        "patch_size": 8, "projection_dim": _EMBEDDED,
    }  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    network: Any = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=_EMBEDDED, vision_config=vision, text_config=text))
    with torch.no_grad():
        # As transformers fills it, all pictures look the same.
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval()


@torch.no_grad()
def embedding(picture: Image.Image) -> torch.Tensor:
    """(1, 16), of length 1: what the network sees in a picture."""
    network = _network()
    pixels = processor()(images=picture.convert("RGB"), return_tensors="pt").pixel_values
    return torch.nn.functional.normalize(network.visual_projection(network.vision_model(pixels)[1]))


def install_checker(models_dir: Path, unsafe: Sequence[Image.Image], safe: Sequence[Image.Image], *, name: str = "checker") -> Path:
    """One that finds pictures unsafe which are nearer to the middle of `unsafe` than to that of `safe`.

    Its thresholds lie halfway between the two, by the pictures that are hardest to tell.
    """
    network = _network()
    bad, good = (torch.cat([embedding(picture) for picture in pictures]) for pictures in (unsafe, safe))
    concept = torch.nn.functional.normalize(bad.mean(0, keepdim=True) - good.mean(0, keepdim=True))
    lowest, highest = float((bad @ concept.T).min()), float((good @ concept.T).max())
    assert lowest - highest > 0.01, "the tiny network can't tell them apart"
    with torch.no_grad():
        network.concept_embeds.copy_(concept.expand(17, -1))
        network.concept_embeds_weights.fill_((lowest + highest) / 2)
        network.special_care_embeds_weights.fill_(2.0)  # which no cosine reaches
    folder = models_dir / "safety" / name
    network.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
