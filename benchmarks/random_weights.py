"""Checkpoints of full size with random weights: what the published ones take of time and memory, without fetching them.

The shapes are those of the configurations that are shipped for single files. Half precision, in pieces of about a gigabyte, so that
writing one takes no more memory than a piece.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdapi.domain.families import UnetFamily
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS

_PIECE_BYTES = 10**9
_SPREAD = 0.02
"""Of the weights; keeps what flows through such a network within half precision."""
_POOL_NUMBERS = 2**22

_TEXT_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}


def checkpoint_folder(models_dir: Path, family: UnetFamily) -> Path:
    """The checkpoint `random-<family>` in the diffusers layout, written unless it is there."""
    folder = models_dir / "checkpoints" / f"random-{family}"
    if not folder.exists():
        unfinished = models_dir / f"random-{family}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(SHIPPED_CONFIGS / family, unfinished, ignore=shutil.ignore_patterns("controlnet"))
        for part, shapes in _shapes(unfinished).items():
            _write(unfinished / part, shapes, "model" if part in _TEXT_ENCODERS else "diffusion_pytorch_model")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(folder)
    return folder


def _shapes(folder: Path) -> dict[str, dict[str, torch.Size]]:
    """Of every weight of every part, by name."""
    with torch.device("meta"):
        networks: dict[str, Any] = {part: network.from_config(network.load_config(folder / part)) for part, network in _NETWORKS.items()}
        for part, encoder in _TEXT_ENCODERS.items():
            if (folder / part).is_dir():
                networks[part] = encoder(CLIPTextConfig.from_pretrained(folder / part, local_files_only=True))
    return {part: {name: tensor.shape for name, tensor in network.state_dict().items()} for part, network in networks.items()}


def _write(folder: Path, shapes: Mapping[str, torch.Size], stem: str) -> None:
    pieces = list(_pieces(shapes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(pieces, start=1):
        file = f"{stem}.safetensors" if len(pieces) == 1 else f"{stem}-{number:05}-of-{len(pieces):05}.safetensors"
        save_file({name: _weight(name, shapes[name]) for name in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(pieces) > 1:
        total_bytes = sum(2 * shape.numel() for shape in shapes.values())
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _pieces(shapes: Mapping[str, torch.Size]) -> Iterator[list[str]]:
    names: list[str] = []
    size_bytes = 0
    for name, shape in shapes.items():
        names.append(name)
        size_bytes += 2 * shape.numel()
        if size_bytes >= _PIECE_BYTES:
            yield names
            names, size_bytes = [], 0
    if names:
        yield names


def _weight(name: str, shape: torch.Size) -> Tensor:
    """Of normalisations one, of biases zero, else drawn by chance: the same numbers again and again, which costs no time."""
    if len(shape) < 2:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.float16)
    start = (len(name) * 7919 + shape.numel()) % _POOL_NUMBERS
    times = -(-(start + shape.numel()) // _POOL_NUMBERS)
    return _pool().repeat(times)[start : start + shape.numel()].view(shape).clone()


@cache
def _pool() -> Tensor:
    """Drawing new ones for each of SDXL's 2,500 weights would take a minute."""
    drawn = torch.randn(_POOL_NUMBERS, generator=torch.Generator().manual_seed(0)) * _SPREAD
    return drawn.to(torch.float16)
