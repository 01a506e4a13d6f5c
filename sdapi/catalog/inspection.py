"""Which family a file or folder is, from tensor names, shapes and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .configurations import read_json
from .family import FAMILY_NAMES, Family, UnetFamily, WholeFamily
from .film_inspection import FILM_PIPELINES
from .upscaling_inspection import UPSCALING_PIPELINES
from .weights import Refused, part_weights, read_shapes
from .whole_inspection import WHOLE_PIPELINES, inspect_whole

_USABLE = "checkpoints of Stable Diffusion 1.x, 2.x and XL can be used, and diffusers folders of many others, such as Flux"
_UNKNOWN = f"It is not a model of a family known here; {_USABLE}."
_REFINER = "It is the refiner of Stable Diffusion XL, which only finishes what another model drew; the base model can be used."

_UNET_PIPELINES = frozenset(
    f"StableDiffusion{kind}{what}Pipeline" for kind in ("", "XL") for what in ("", "Img2Img", "Inpaint", "InstructPix2Pix")
)
_FAMILY_OF_CONTEXT_DIM: Mapping[int, UnetFamily] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_REFINER_CONTEXT_DIM = 1280

_TEXT_ENCODERS: Mapping[UnetFamily, tuple[str, ...]] = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
"""What the tensors of a single file's text encoders are called."""

# What a file without a UNet may be, by a piece of a tensor's name; the first that fits counts.
_NOT_CHECKPOINTS: tuple[tuple[str, str], ...] = (
    ("lora", "It is a LoRA, not a checkpoint; it belongs into models/loras/."),
    ("control_model.", "It is a ControlNet, not a checkpoint; it belongs into models/controlnets/."),
    ("emb_params", "It is a textual inversion, not a checkpoint; it belongs into models/embeddings/."),
    ("decoder.up", "It is a VAE, not a checkpoint; it belongs into models/vaes/."),
)

_UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Inspected:
    """A checkpoint as its files describe it."""

    family: Family
    in_channels: int
    """Of the network that is called at each step; 0 where a whole pipeline knows that for itself."""
    weights: tuple[Path, ...]
    longest_frames: int | None = None
    """How many frames a model for films knows; None: any number."""
    is_motion_adapter: bool = False
    """Whether it draws films only together with a checkpoint."""


def inspect_file(path: Path) -> Inspected:
    """Look at a single-file checkpoint. Raises Refused unless it is a whole Stable Diffusion 1.x, 2.x or XL model, and OSError."""
    shapes = read_shapes(path)
    family = _family_of(shapes)
    first = shapes.get(_UNET + "input_blocks.0.0.weight", ())
    for prefix, part in (("first_stage_model.", "VAE"), *((encoder, "text encoder") for encoder in _TEXT_ENCODERS[family])):
        if not any(name.startswith(prefix) for name in shapes):
            raise Refused(f"It holds a UNet but no {part}; only complete checkpoints can be used.")
    if len(first) != 4:
        raise Refused("Its UNet has no first layer, so it is not a whole checkpoint.")
    return _drawable(family, first[1], (path,))


def inspect_folder(path: Path) -> Inspected:
    """Look at a diffusers folder. Raises Refused unless it is a whole model of a family that can be drawn here, and OSError."""
    if not (path / "model_index.json").is_file():
        raise Refused("It is a folder without model_index.json, so it is not a diffusers model.")
    index = read_json(path / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if pipeline in WHOLE_PIPELINES:
        whole = inspect_whole(path, index)
        return Inspected(whole.family, 0, whole.weights)
    if pipeline in UPSCALING_PIPELINES:
        raise Refused("It makes pictures larger; it belongs into models/upscalers/.")
    if pipeline in FILM_PIPELINES:
        raise Refused("It draws films, not pictures; it belongs into models/video/.")
    if pipeline not in _UNET_PIPELINES:
        raise Refused(_UNKNOWN)
    return _inspect_unet_folder(path, index)


def _inspect_unet_folder(path: Path, index: Mapping[str, Any]) -> Inspected:
    """Of the family its components say: its dimensions may be anything, because it brings its own configuration."""
    is_xl = str(index.get("_class_name")).startswith("StableDiffusionXL")
    if is_xl and not (path / "text_encoder").is_dir() and (path / "text_encoder_2").is_dir():
        raise Refused(_REFINER)
    encoders = ("text_encoder", "text_encoder_2") if is_xl else ("text_encoder",)
    tokenizers = ("tokenizer", "tokenizer_2") if is_xl else ("tokenizer",)
    for part in ("unet", "vae", *encoders, *tokenizers, "scheduler"):
        if not (path / part).is_dir():
            raise Refused(f"It has no folder {part}/.")
    config = read_json(path / "unet" / "config.json")
    expected = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
    if config.get("_class_name") != "UNet2DConditionModel" or any(index.get(one) != ["transformers", expected[one]] for one in encoders):
        raise Refused(_UNKNOWN)
    if is_xl != (config.get("addition_embed_type") == "text_time"):
        raise Refused(
            f"Its UNet is {'not' if is_xl else ''} one of Stable Diffusion XL, against what model_index.json says.".replace("  ", " ")
        )
    configs = [path / part / "config.json" for part in ("vae", *encoders)]
    for file in (*configs, path / "scheduler" / "scheduler_config.json"):
        read_json(file)
    weights = [file for part in ("unet", "vae", *encoders) for file in part_weights(path / part, prefer_fp16=False).files]
    for file in weights:
        read_shapes(file)
    in_channels = config.get("in_channels", 4)
    family: UnetFamily = "sdxl" if is_xl else _sd1_or_sd2(config)
    return _drawable(family, in_channels if isinstance(in_channels, int) else 0, tuple(weights))


def _sd1_or_sd2(unet_config: Mapping[str, Any]) -> UnetFamily:
    """By the width of the context; models of unusual width by their attention, whose projections are linear since 2.0."""
    context_dim = unet_config.get("cross_attention_dim")
    known = _FAMILY_OF_CONTEXT_DIM.get(context_dim) if isinstance(context_dim, int) else None
    if known in ("sd1", "sd2"):
        return known
    return "sd2" if unet_config.get("use_linear_projection") is True else "sd1"


def _family_of(shapes: Mapping[str, tuple[int, ...]]) -> UnetFamily:
    if any("double_blocks." in name for name in shapes):
        _refuse_whole("flux")
    if any("joint_blocks." in name for name in shapes):
        _refuse_whole("sd3")
    contexts = (shape for name, shape in shapes.items() if name.startswith(_UNET) and name.endswith("attn2.to_k.weight"))
    context = next(contexts, ())
    if not context:
        raise Refused(next((sentence for piece, sentence in _NOT_CHECKPOINTS if any(piece in name for name in shapes)), _UNKNOWN))
    if context[-1] == _REFINER_CONTEXT_DIM:
        raise Refused(_REFINER)
    family = _FAMILY_OF_CONTEXT_DIM.get(context[-1])
    if family is None:
        raise Refused(_UNKNOWN)
    return family


def _refuse_whole(family: WholeFamily) -> NoReturn:
    raise Refused(f"It is a single file of a {FAMILY_NAMES[family]} model; models of that family can be used as diffusers folders.")


def _drawable(family: UnetFamily, in_channels: int, weights: tuple[Path, ...]) -> Inspected:
    if in_channels not in (4, 9):
        # Listed, such a model would be accepted and then fail in its first forward.
        raise Refused(f"It is a model whose UNet takes {in_channels} channels; models that take 4, or 9 for inpainting, can be used.")
    return Inspected(family, in_channels, weights)
