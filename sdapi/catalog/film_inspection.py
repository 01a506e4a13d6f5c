"""Diffusers folders that draw films: which pipelines, and whether a folder is complete and harmless (see `whole_inspection.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sdapi.domain.families import FAMILY_NAMES, FilmFamily

from .configurations import read_json
from .weights import Refused, part_weights, read_shapes
from .whole_inspection import weights_of_parts

FILM_PIPELINES: Final[Mapping[str, FilmFamily]] = {
    "TextToVideoSDPipeline": "modelscope",
    "AnimateDiffPipeline": "animatediff",
    "WanPipeline": "wan",
}
"""Class names in model_index.json that can be drawn with."""

_PARTS: Final[Mapping[FilmFamily, tuple[str, ...]]] = {
    "modelscope": ("unet", "vae", "scheduler", "text_encoder", "tokenizer"),
    "animatediff": ("unet", "vae", "scheduler", "text_encoder", "tokenizer"),
    "wan": ("transformer", "vae", "scheduler", "text_encoder", "tokenizer"),
}
_USUAL_MOTION_FRAMES: Final = 32
"""Of a motion module whose configuration doesn't say."""


@dataclass(frozen=True)
class InspectedFilmModel:
    """A folder as its files describe it."""

    family: FilmFamily
    weights: tuple[Path, ...]
    longest_frames: int | None
    """How many frames it knows; None: any number."""
    is_motion_adapter: bool = False
    """Whether it draws films only together with a Stable Diffusion 1.x checkpoint."""


def inspect_film_model(path: Path) -> InspectedFilmModel:
    """Look at a folder below `models/video/`. Raises Refused where it can't be drawn with, and OSError."""
    if not (path / "model_index.json").is_file():
        return _inspect_adapter(path)
    index = read_json(path / "model_index.json")
    family = FILM_PIPELINES.get(str(index.get("_class_name")))
    if family is None:
        usable = ", ".join(FILM_PIPELINES)
        raise Refused(f"Its pipeline is {str(index.get('_class_name'))[:60]!a}; films are drawn by {usable}.")
    for part in _PARTS[family]:
        if index.get(part) in (None, [None, None]):
            raise Refused(f"model_index.json names no {part}, which every {FAMILY_NAMES[family]} has.")
    weights = weights_of_parts(path, index)
    return InspectedFilmModel(family, weights, _longest_frames(path, index) if family == "animatediff" else None)


def _inspect_adapter(path: Path) -> InspectedFilmModel:
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if config.get("_class_name") != "MotionAdapter":
        raise Refused("It has no model_index.json, and it is no motion adapter: it is not a diffusers model for films.")
    weights = part_weights(path, prefer_fp16=False).files
    for file in weights:
        read_shapes(file)
    return InspectedFilmModel("animatediff", weights, _frames(config), is_motion_adapter=True)


def _longest_frames(path: Path, index: Mapping[str, Any]) -> int:
    """As many as its motion modules have positions for."""
    part = "unet" if index["unet"] == ["diffusers", "UNetMotionModel"] else "motion_adapter"
    if not (path / part).is_dir():
        raise Refused("It has no motion modules: neither a UNetMotionModel nor a folder motion_adapter/.")
    return _frames(read_json(path / part / "config.json"))


def _frames(config: Mapping[str, Any]) -> int:
    frames = config.get("motion_max_seq_length", _USUAL_MOTION_FRAMES)
    return frames if isinstance(frames, int) and frames > 0 else _USUAL_MOTION_FRAMES
