"""Diffusers folders that are drawn by their own pipeline, called whole: which pipelines, and whether a folder is complete and harmless.

Harmless means that every component is a class of diffusers or transformers and every weight a safetensors file: nothing of the folder
is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdapi.domain.families import FAMILY_NAMES, WholeFamily

from .configurations import read_json
from .weights import Refused, part_weights, read_shapes

_LIBRARIES = frozenset({"diffusers", "transformers"})
_ALL_HAVE = ("transformer", "vae", "scheduler", "text_encoder", "tokenizer")
_VARIANTS = ("", "Img2Img", "Inpaint")
_IN_THREE_WAYS: Mapping[str, WholeFamily] = {
    "StableDiffusion3": "sd3",
    "Flux": "flux",
    "QwenImage": "qwen_image",
    "ZImage": "z_image",
}
"""Families with a pipeline each for words, for a picture to start from, and for a mask; a folder may name any of the three."""

OTHER_PIPELINES = (
    "AuraFlowPipeline",
    "ChromaPipeline",
    "CogView3PlusPipeline",
    "CogView4Pipeline",
    "Flux2KleinPipeline",
    "Flux2Pipeline",
    "FluxKontextPipeline",
    "HunyuanDiTPipeline",
    "Kandinsky3Pipeline",
    "Lumina2Pipeline",
    "LuminaPipeline",
    "OvisImagePipeline",
    "PRXPipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "QwenImage21Pipeline",
    "SanaPipeline",
)
"""Further ones that draw from words alone, in one piece and step by step."""

WHOLE_PIPELINES: Mapping[str, WholeFamily] = {
    **{f"{start}{variant}Pipeline": family for start, family in _IN_THREE_WAYS.items() for variant in _VARIANTS},
    **dict.fromkeys(OTHER_PIPELINES, "other"),
}
"""Class names in model_index.json that can be drawn whole."""


@dataclass(frozen=True)
class InspectedWhole:
    """A whole pipeline's folder as its files describe it."""

    family: WholeFamily
    weights: tuple[Path, ...]


def inspect_whole(path: Path, index: Mapping[str, Any]) -> InspectedWhole:
    """Look at a folder whose model_index.json, read as `index`, names one of `WHOLE_PIPELINES`.

    Raises Refused where a part is missing, pickled or brings its own code, and OSError.
    """
    family = WHOLE_PIPELINES[str(index["_class_name"])]
    for part in ("scheduler",) if family == "other" else _ALL_HAVE:
        if index.get(part) in (None, [None, None]):
            raise Refused(f"model_index.json names no {part}, which every {FAMILY_NAMES[family]} has.")
    return InspectedWhole(family, weights_of_parts(path, index))


def weights_of_parts(path: Path, index: Mapping[str, Any]) -> tuple[Path, ...]:
    """All weights of the folder whose model_index.json was read as `index`.

    Raises Refused where a part is missing, pickled or brings its own code, and OSError.
    """
    weights: list[Path] = []
    for part, source in index.items():
        if not isinstance(source, list) or source == [None, None]:
            continue
        if len(source) != 2 or not all(isinstance(word, str) for word in source) or source[0] not in _LIBRARIES or not part.isidentifier():
            raise Refused(f"Its part {part!r} is no class of diffusers or transformers; code that comes with a model is never run.")
        if not (path / part).is_dir():
            raise Refused(f"It has no folder {part}/.")
        weights += _weights_of(path / part)
    if not weights:
        raise Refused("It holds no weights.")
    for file in weights:
        read_shapes(file)
    return tuple(weights)


def _weights_of(folder: Path) -> tuple[Path, ...]:
    """Of networks, which have a config.json; tokenizers, schedulers and processors are configured by other files."""
    if not (folder / "config.json").is_file():
        return ()
    if "auto_map" in read_json(folder / "config.json"):
        raise Refused(f"{folder.name}/config.json names code that comes with the model, which is never run.")
    return part_weights(folder, prefer_fp16=False).files
