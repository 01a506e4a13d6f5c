"""Weights in pickled files made into safetensors, without running what a pickle may contain."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdapi.catalog import Refused

_WRAPPERS: Final = ("params_ema", "params", "state_dict", "model_state_dict", "model", "g_ema", "generator")
"""Under which training programs file the weights; averaged ones first."""


def convert_to_safetensors(source: Path, target: Path) -> int:
    """Write the tensors of a `.pth`, `.pt`, `.ckpt` or `.bin` file as safetensors; how many there are.

    Torch's restricted unpickler reads it, which knows tensors and plain values and refuses to call anything else. `target` appears
    whole or not at all. Raises Refused, in a sentence for the operator, where the file is no pickle of weights, and OSError.
    """
    tensors = _tensors_in(source)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        # Cloned, because pickles may share one storage among tensors, which safetensors does not.
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, unfinished, metadata={"format": "pt"})
        # safetensors lets nobody but the owner read what it writes, and the server may run as somebody else.
        shutil.copymode(source, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(tensors)


def _tensors_in(source: Path) -> dict[str, Tensor]:
    with source.open("rb"):  # so that a missing file is told as such
        pass
    try:
        found: Any = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or it asks for code to be run, which weights don't need; nothing of it was run"
        raise Refused(f"{source.name} is refused: {reason}.") from error
    except (EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, BadZipFile) as error:
        raise Refused(f"{source.name} can't be read: it is damaged, or no file of PyTorch.") from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if isinstance(found, Tensor):
        raise Refused(f"{source.name} holds a lone tensor and no names.")
    if not isinstance(found, Mapping):
        raise Refused(f"{source.name} holds {type(found).__name__}, not weights by name.")
    tensors = _embedding(found) or _named(found)
    if not tensors:
        raise Refused(f"{source.name} holds no weights.")
    return tensors


def _named(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors by name. Counters and settings are left out."""
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _embedding(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The vectors of a textual inversion as A1111 writes them, under the name it gives them in safetensors; otherwise none."""
    filed = found.get("string_to_param")
    words = [value for value in filed.values() if isinstance(value, Tensor)] if isinstance(filed, Mapping) else []
    return {"emb_params": words[0]} if len(words) == 1 else {}
