"""Weights files by their headers: safetensors is a length, a JSON table and bytes, so nothing is executed by looking."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PICKLED_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})

# safetensors itself refuses longer headers; the largest real ones are under 1 MB.
_MAX_HEADER_BYTES = 100_000_000

_WEIGHTS_NAME = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[A-Za-z0-9_]+))?(?:-\d{5}-of-\d{5})?\.safetensors")


class Refused(Exception):
    """This file or folder can't be used; the text is a sentence for the operator."""


@dataclass(frozen=True)
class PartWeights:
    """One network's weights inside a diffusers folder."""

    variant: str | None
    """What the file names have before `.safetensors`, such as "fp16"."""
    files: tuple[Path, ...]


def how_to_convert(name: str) -> str:
    """The sentence for a pickled file."""
    return (
        f"{name} is a pickle, which can run any code when it is read, so it is refused. Convert it to safetensors first: "
        "`sdapi models convert IN.ckpt OUT.safetensors`, which runs none of it."
    )


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as the header describes it; the offsets count from the end of the header."""

    dtype: str
    """As safetensors calls it, such as F16."""
    shape: tuple[int, ...]
    begin_bytes: int
    end_bytes: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_bytes: int
    """What follows the header, as the file is."""


def read_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Tensor names and shapes of a safetensors file, from its header alone.

    Raises Refused when it is not safetensors or shorter than its header says, and OSError.
    """
    return {name: tensor.shape for name, tensor in read_header(path).tensors.items()}


def read_header(path: Path) -> Header:
    """The header of a safetensors file; the tensors themselves are not read.

    Raises Refused when it is not safetensors or shorter than its header says, and OSError.
    """
    size_bytes = path.stat().st_size
    if not path.is_file():
        # Opening a named pipe would wait for ever.
        raise Refused(f"{path.name} is not a regular file.")
    with path.open("rb") as file:
        start = file.read(8)
        length = header_bytes(path.name, start)
        if length > size_bytes - 8:
            raise Refused(_what_else(path.name, start))
        header = file.read(length)
    tensors, metadata = parse_header(path.name, start, header)
    data_bytes = size_bytes - 8 - length
    missing = max((tensor.end_bytes for tensor in tensors.values()), default=0) - data_bytes
    if missing > 0:
        raise Refused(f"{path.name} is cut short: {missing:,} bytes are missing. Copy or download it again.")
    return Header(tensors, metadata, data_bytes)


def header_bytes(name: str, start: bytes) -> int:
    """How long the header of a safetensors file is, from its first 8 bytes. Raises Refused where they begin something else."""
    length = int(struct.unpack("<Q", start[:8])[0]) if len(start) >= 8 else 0
    if not 2 <= length <= _MAX_HEADER_BYTES:
        raise Refused(_what_else(name, start))
    return length


def parse_header(name: str, start: bytes, header: bytes) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Tensors and metadata of the header that follows the first 8 bytes, `start`. Raises Refused where it makes no sense."""
    try:
        return _parse(json.loads(header))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as refusal:
        raise Refused(_what_else(name, start)) from refusal


def _parse(table: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    tensors: dict[str, TensorEntry] = {}
    for name, tensor in table.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            tensors[name] = TensorEntry(str(tensor.get("dtype")), tuple(int(side) for side in tensor["shape"]), int(begin), int(end))
    metadata = {name: str(value) for name, value in (table.get("__metadata__") or {}).items()}
    return tensors, metadata


def _what_else(name: str, start: bytes) -> str:
    # Looked at only when the header made no sense: a length may begin with any of these bytes.
    if start.startswith(b"PK\x03\x04") or (len(start) > 1 and start[0] == 0x80 and start[1] <= 5):
        return f"{name} is not safetensors whatever its name says: {how_to_convert('it')}"
    if start.startswith(b"version "):
        return f"{name} is a Git LFS pointer, not the weights themselves. Run `git lfs pull` where it came from."
    return f"{name} is not a safetensors file, or the beginning of it was damaged."


def part_weights(folder: Path, *, prefer_fp16: bool) -> PartWeights:
    """The safetensors files of one part (`unet/`, ...) of a diffusers folder.

    Where there are several variants, the one without a name comes first and "fp16" next, or the other way round if `prefer_fp16`:
    reading the precision one draws with saves the conversion. Raises Refused where there are none, OSError where there is no folder.
    """
    names = sorted(file.name for file in folder.iterdir())
    variant, chosen = choose_weights(names, prefer_fp16=prefer_fp16)
    if not chosen:
        pickled = any(Path(name).suffix.lower() in PICKLED_SUFFIXES for name in names)
        raise Refused(
            f"{folder.name}/ holds only pickled weights: {how_to_convert('each')}" if pickled else f"{folder.name}/ holds no weights."
        )
    return PartWeights(variant, tuple(folder / name for name in chosen))


def choose_weights(names: Iterable[str], *, prefer_fp16: bool) -> tuple[str | None, tuple[str, ...]]:
    """The variant, and of the file names of one part those that hold it; none where there are no weights. See `part_weights`."""
    variants: dict[str | None, list[str]] = {}
    for name in names:
        if named := _WEIGHTS_NAME.fullmatch(name):
            variants.setdefault(named["variant"], []).append(name)
    if not variants:
        return None, ()
    order: tuple[str | None, ...] = ("fp16", None, "bf16") if prefer_fp16 else (None, "fp16", "bf16")
    variant = next((one for one in order if one in variants), next(iter(variants)))
    return variant, tuple(variants[variant])
