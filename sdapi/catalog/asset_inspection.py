"""What a file or folder beside the checkpoints is - LoRA, embedding, ControlNet, VAE, upscaler - from tensor names and shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from .checkpoint import Layout
from .upscaling_inspection import inspect_upscaling_pipeline
from .weights import Refused, part_weights, read_shapes

AssetKind = Literal["lora", "embedding", "controlnet", "vae", "upscaler"]
ASSET_KINDS: tuple[AssetKind, ...] = get_args(AssetKind)

Shapes = Mapping[str, tuple[int, ...]]

KIND_FOLDERS: Mapping[str, str] = {
    "checkpoint": "checkpoints",
    "lora": "loras",
    "embedding": "embeddings",
    "controlnet": "controlnets",
    "vae": "vaes",
    "upscaler": "upscalers",
}
"""Where in the models folder each kind lives."""

_WORDS: Mapping[str, str] = {
    "checkpoint": "a checkpoint",
    "lora": "a LoRA",
    "embedding": "a textual inversion",
    "controlnet": "a ControlNet",
    "vae": "a VAE",
    "upscaler": "an upscaler",
}

_MAX_CONFIG_BYTES = 2**20
_CHECKPOINT = ("model.diffusion_model.", "conditioner.embedders.")
_LORA = re.compile(r"lora|hada_w[12]|lokr_w[12]")
_CONTROLNET = re.compile(r"(^|\.)(control_model|controlnet_cond_embedding|controlnet_down_blocks|input_hint_block|controlnet_blocks)\.")
_VAE = re.compile(r"(^|\.)decoder\.(up\.|up_blocks\.|conv_in\.)")
_EMBEDDING_NAMES = frozenset({"emb_params", "clip_l", "clip_g"})
_EMBEDDING_DIMS = frozenset({768, 1024, 1280, 2048, 4096})
# Textual inversions have one tensor per text encoder and word; nothing else is so small.
_MAX_EMBEDDING_TENSORS = 8
_NETWORK = re.compile(r"(^|\.)(time_embed|time_embedding|text_model|double_blocks|joint_blocks)\.")
_NETWORK_CLASSES: Mapping[AssetKind, str] = {"controlnet": "ControlNet", "vae": "Autoencoder"}
_USUAL_NAMES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")


def kind_of_tensors(shapes: Shapes) -> Literal[AssetKind, "checkpoint"] | None:
    """What a file with these tensors is; None for what is not recognised, and for a lone UNet or text encoder."""
    if any(_LORA.search(name) for name in shapes):
        return "lora"
    if any(name.startswith(_CHECKPOINT) for name in shapes):
        return "checkpoint"
    if any(_CONTROLNET.search(name) for name in shapes):
        return "controlnet"
    if shapes and _is_embedding(shapes):
        return "embedding"
    if any(_VAE.search(name) for name in shapes):
        return "vae"
    # Upscalers have no names in common, but each is a network of convolutions that knows neither words nor time.
    if any(len(shape) == 4 for shape in shapes.values()) and not any(_NETWORK.search(name) for name in shapes):
        return "upscaler"
    return None


def _is_embedding(shapes: Shapes) -> bool:
    if not _EMBEDDING_NAMES.isdisjoint(shapes):
        return True
    small = len(shapes) <= _MAX_EMBEDDING_TENSORS
    return small and all(len(shape) in (1, 2) and shape[-1] in _EMBEDDING_DIMS for shape in shapes.values())


def inspect_asset(kind: AssetKind, path: Path, layout: Layout) -> tuple[Path, ...]:
    """The weights of an asset of that kind, whose headers have been read. Raises Refused where it is something else, and OSError."""
    if kind == "upscaler" and layout == "diffusers" and (path / "model_index.json").is_file():
        return inspect_upscaling_pipeline(path)
    weights = (path,) if layout == "single_file" else _weights_in(kind, path)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weights:
        shapes.update(read_shapes(file))
    found = kind_of_tensors(shapes)
    if found == kind:
        return weights
    if found is None:
        raise Refused(f"It is not {_WORDS[kind]}, nor anything else that is known here.")
    raise Refused(f"It is {_WORDS[found]}, not {_WORDS[kind]}; it belongs into models/{KIND_FOLDERS[found]}/.")


def _weights_in(kind: AssetKind, folder: Path) -> tuple[Path, ...]:
    if kind in _NETWORK_CLASSES:
        _check_config(kind, folder / "config.json")
        return part_weights(folder, prefer_fp16=False).files
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".safetensors" and not file.name.startswith("."))
    usual = [file for file in files if file.name in _USUAL_NAMES]
    if len(usual or files) != 1:
        count = "no" if not files else "more than one"
        raise Refused(f"It is a folder with {count} .safetensors file, so it is not clear what to use.")
    return tuple(usual or files)


def _check_config(kind: AssetKind, path: Path) -> None:
    if not path.is_file():
        raise Refused(f"It is a folder without config.json, so it is not {_WORDS[kind]} in the diffusers layout.")
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as refusal:
        raise Refused("config.json is not JSON.") from refusal
    name = str(config.get("_class_name")) if isinstance(config, dict) else "?"
    if not name.startswith(_NETWORK_CLASSES[kind]):
        raise Refused(f"Its config.json says {name[:60]!a}, which is not {_WORDS[kind]}.")
