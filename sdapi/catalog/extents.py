"""Whether the tensors of a safetensors file lie where its header says: each as long as its shape, one after another, nothing left over."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from .weights import Header, Refused, read_header

_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_BITS_PER_BYTE = 8


def extent_problems(path: Path) -> list[str]:
    """What is wrong with the file, in sentences; empty where nothing is. Raises OSError."""
    try:
        header = read_header(path)
    except Refused as refusal:
        return [str(refusal)]
    return [f"{path.name}: {problem}" for problem in _problems(header)]


def _problems(header: Header) -> list[str]:
    problems: list[str] = []
    end = 0
    for name, tensor in sorted(header.tensors.items(), key=lambda item: (item[1].begin_bytes, item[1].end_bytes)):
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            problems.append(f"the tensor {name[:100]!a} has numbers of the unknown kind {tensor.dtype[:30]!a}.")
        elif any(side < 0 for side in tensor.shape) or math.prod(tensor.shape) * bits != (
            (tensor.end_bytes - tensor.begin_bytes) * _BITS_PER_BYTE
        ):
            problems.append(
                f"the tensor {name[:100]!a} has {tensor.end_bytes - tensor.begin_bytes:,} bytes, "
                f"which does not fit {tensor.dtype} numbers of shape {list(tensor.shape)}."
            )
        if tensor.begin_bytes != end:
            problems.append(f"the tensor {name[:100]!a} begins at byte {tensor.begin_bytes:,} of the data instead of {end:,}.")
        end = tensor.end_bytes
    if end < header.data_bytes:
        problems.append(f"{header.data_bytes - end:,} bytes follow the last tensor.")
    return problems


def count_dtypes(weights: Iterable[Path]) -> Counter[str]:
    """How many tensors there are of each kind of number, such as F16. Raises Refused and OSError."""
    return Counter(tensor.dtype for path in weights for tensor in read_header(path).tensors.values())
