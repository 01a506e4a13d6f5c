"""Single files as networks: tensors named as their makers' code named them, described by configurations shipped for each family.

diffusers' own reader unpickles whatever is not called .safetensors; here tensors are read first, and diffusers only renames them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdapi.catalog import UnetFamily

SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"
"""Holds a folder for each family."""

_VOCABULARY = SHIPPED_CONFIGS / "sd1" / "tokenizer"
"""All these families number words alike; their tokenizers differ in what they fill chunks up with."""

_CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
_OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
"""What the names of the two kinds of text encoder begin with."""

_FAMILY_OF_CONTEXT_DIM: Mapping[int, UnetFamily] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_V_PREDICTION_MARK = "v_pred"
_ZERO_SNR_MARK = "ztsnr"
"""Empty tensors by which trainers say what a file's UNet predicts, and that it was trained down to pure noise."""


class Incomplete(Exception):
    """Weights the architecture needs are not there."""


def shipped_for(tensors: Mapping[str, Tensor]) -> Path:
    """The configurations of the family whose width of context these tensors of a UNet or control net have."""
    width = next((tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("attn2.to_k.weight")), 0)
    return SHIPPED_CONFIGS / _FAMILY_OF_CONTEXT_DIM.get(width, "sd1")


def network_from(model_class: Any, tensors: Mapping[str, Tensor], configs_dir: Path, part: str, dtype: torch.dtype, **sizes: int) -> Any:
    """A network of diffusers. `sizes` are what the file's own tensors say of it, against its configuration."""
    try:
        # Copied, because converting one part takes tensors out of the dictionary it is given.
        return model_class.from_single_file(
            dict(tensors), config=str(configs_dir), subfolder=part, dtype=dtype, local_files_only=True, **sizes
        )
    except KeyError as error:
        raise Incomplete(f"{part} lacks weights such as {error.args[0]}") from error
    except NotImplementedError as error:
        # "Cannot copy out of meta tensor": what the file did not fill is still without data.
        raise Incomplete(f"{part} lacks weights") from error


def text_encoder_from(tensors: Mapping[str, Tensor], family: UnetFamily, configs_dir: Path, dtype: torch.dtype) -> Any:
    """The first, or only, text encoder."""
    config = CLIPTextConfig.from_pretrained(configs_dir / "text_encoder", local_files_only=True)
    if family == "sd2":
        state = _open_clip_state(tensors, _OPEN_CLIP[family], config)
    else:
        state = {name.removeprefix(_CLIP[family]): tensor for name, tensor in tensors.items() if name.startswith(_CLIP[family])}
    # Some merges lack the `text_model.` level; CLIPTextModel itself has none.
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items() if not name.endswith(".position_ids")}
    return _filled(CLIPTextModel, config, state, dtype, "text encoder")


def second_text_encoder_from(tensors: Mapping[str, Tensor], configs_dir: Path, dtype: torch.dtype) -> Any:
    """Stable Diffusion XL's second text encoder."""
    config = CLIPTextConfig.from_pretrained(configs_dir / "text_encoder_2", local_files_only=True)
    state = _open_clip_state(tensors, _OPEN_CLIP["sdxl"], config)
    return _filled(CLIPTextModelWithProjection, config, state, dtype, "second text encoder")


def _open_clip_state(tensors: Mapping[str, Tensor], prefix: str, config: Any) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = convert_open_clip_checkpoint(SimpleNamespace(config=config), dict(tensors), prefix=prefix)
    return converted


def _filled(model_class: Any, config: Any, state: dict[str, Tensor], dtype: torch.dtype, name: str) -> Any:
    model, loaded = model_class.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    # transformers only warns of missing weights, and fills them with random numbers.
    if loaded["missing_keys"]:
        raise Incomplete(f"the {name} lacks weights such as {min(loaded['missing_keys'])}")
    return model


def tokenizer_from(folder: Path) -> Any:
    """The tokenizer a configuration describes; its vocabulary is the one shipped unless it lies beside."""
    if (folder / "vocab.json").is_file():
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return CLIPTokenizer.from_pretrained(_VOCABULARY, local_files_only=True, pad_token=config["pad_token"])


def marked_prediction(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the file's marks say of the schedule; nothing where it bears none."""
    if _V_PREDICTION_MARK not in tensors:
        return {}
    marked = {"prediction_type": "v_prediction"}
    return marked | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if _ZERO_SNR_MARK in tensors else marked
