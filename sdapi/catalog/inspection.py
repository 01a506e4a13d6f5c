"""Which family a file or folder is, from tensor names, shapes and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .weights import Refused, part_weights, read_shapes

Family = Literal["sd1", "sd2", "sdxl", "sd3", "flux", "unknown"]

_FAMILY_NAMES: Mapping[Family, str] = {
    "sd1": "Stable Diffusion 1.x (sd1)",
    "sd2": "Stable Diffusion 2.x (sd2)",
    "sdxl": "Stable Diffusion XL (sdxl)",
    "sd3": "Stable Diffusion 3 (sd3)",
    "flux": "Flux (flux)",
}
_SD_PIPELINES = frozenset({"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"})
_OTHER_PIPELINES: Mapping[str, Family] = {"StableDiffusionXL": "sdxl", "StableDiffusion3": "sd3", "Flux": "flux"}
_FAMILY_OF_CONTEXT_DIM: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: "sdxl"}

# What a file without a UNet may be, by a piece of a tensor's name; the first that fits counts.
_NOT_CHECKPOINTS: tuple[tuple[str, str], ...] = (
    ("lora", "It is a LoRA, not a checkpoint; it belongs into models/loras/."),
    ("control_model.", "It is a ControlNet, not a checkpoint; it belongs into models/controlnets/."),
    ("emb_params", "It is a textual inversion, not a checkpoint; it belongs into models/embeddings/."),
    ("decoder.up", "It is a VAE, not a checkpoint; it belongs into models/vaes/."),
)

_MAX_CONFIG_BYTES = 2**20
_UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Inspected:
    """A Stable Diffusion 1.x checkpoint as its files describe it."""

    in_channels: int
    weights: tuple[Path, ...]


def inspect_file(path: Path) -> Inspected:
    """Look at a single-file checkpoint. Raises Refused unless it is a whole Stable Diffusion 1.x model, and OSError."""
    shapes = read_shapes(path)
    family = _family_of(shapes)
    if family == "unknown":
        for piece, sentence in _NOT_CHECKPOINTS:
            if any(piece in name for name in shapes):
                raise Refused(sentence)
    _refuse_others(family)
    for prefix, part in (("first_stage_model.", "VAE"), ("cond_stage_model.transformer.", "text encoder")):
        if not any(name.startswith(prefix) for name in shapes):
            raise Refused(f"It holds a UNet but no {part}; only complete checkpoints can be used.")
    first = shapes.get(_UNET + "input_blocks.0.0.weight", ())
    if len(first) != 4:
        raise Refused("Its UNet has no first layer, so it is not a whole checkpoint.")
    return _drawable(first[1], (path,))


def inspect_folder(path: Path) -> Inspected:
    """Look at a diffusers folder. Raises Refused unless it is a whole Stable Diffusion 1.x model, and OSError."""
    if not (path / "model_index.json").is_file():
        raise Refused("It is a folder without model_index.json, so it is not a diffusers model.")
    index = _read_json(path / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if pipeline not in _SD_PIPELINES:
        _refuse_others(next((family for start, family in _OTHER_PIPELINES.items() if pipeline.startswith(start)), "unknown"))
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not (path / part).is_dir():
            raise Refused(f"It has no folder {part}/.")
    config = _read_json(path / "unet" / "config.json")
    context_dim = config.get("cross_attention_dim")
    if config.get("_class_name") != "UNet2DConditionModel" or index.get("text_encoder") != ["transformers", "CLIPTextModel"]:
        _refuse_others("unknown")
    if isinstance(context_dim, int) and _FAMILY_OF_CONTEXT_DIM.get(context_dim) not in (None, "sd1"):
        _refuse_others(_FAMILY_OF_CONTEXT_DIM[context_dim])
    for file in (path / "vae" / "config.json", path / "text_encoder" / "config.json", path / "scheduler" / "scheduler_config.json"):
        _read_json(file)
    weights = [file for part in ("unet", "vae", "text_encoder") for file in part_weights(path / part, prefer_fp16=False).files]
    for file in weights:
        read_shapes(file)
    in_channels = config.get("in_channels", 4)
    return _drawable(in_channels if isinstance(in_channels, int) else 0, tuple(weights))


def _family_of(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    if any("double_blocks." in name for name in shapes):
        return "flux"
    if any("joint_blocks." in name for name in shapes):
        return "sd3"
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        return "sdxl"
    contexts = (shape for name, shape in shapes.items() if name.startswith(_UNET) and name.endswith("attn2.to_k.weight"))
    context = next(contexts, ())
    return _FAMILY_OF_CONTEXT_DIM.get(context[-1], "unknown") if context else "unknown"


def _refuse_others(family: Family) -> None:
    if family == "unknown":
        raise Refused("It is not a model of a family known here; Stable Diffusion 1.x checkpoints can be used.")
    if family != "sd1":
        raise Refused(f"It is a {_FAMILY_NAMES[family]} model, which is not supported; Stable Diffusion 1.x checkpoints can be used.")


def _drawable(in_channels: int, weights: tuple[Path, ...]) -> Inspected:
    if in_channels not in (4, 9):
        # Listed, such a model would be accepted and then fail in its first forward.
        raise Refused(f"It is a model whose UNet takes {in_channels} channels; models that take 4, or 9 for inpainting, can be used.")
    return Inspected(in_channels, weights)


def _read_json(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise Refused(f"{name} is missing.")
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as refusal:
        raise Refused(f"{name} is not JSON.") from refusal
    if not isinstance(value, dict):
        raise Refused(f"{name} is not a JSON object.")
    return value
