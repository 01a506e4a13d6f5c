"""Weights that are still mapped from their file: read as they are stored, and copied once, to where and as they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from sdapi.catalog.weights import read_header

_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_OTHER_FLOATS = ("F64", "F8_E4M3", "F8_E5M2")


def stored_dtype(files: Iterable[Path]) -> torch.dtype | None:
    """The number format of all weights in these safetensors files, integers aside; None where there are several or none.

    Raises Refused where one isn't safetensors, and OSError.
    """
    names = {tensor.dtype for path in files for tensor in read_header(path).tensors.values()}
    floats = names & {*_FORMATS, *_OTHER_FLOATS}
    return _FORMATS.get(floats.pop()) if len(floats) == 1 else None


def common_dtype(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """The same of tensors. Empty ones don't count: trainers leave them as marks."""
    floats = {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.numel()}
    return next((dtype for dtype in _FORMATS.values() if floats == {dtype}), None)


def place(network: torch.nn.Module, device: torch.device, dtype: torch.dtype, *, channels_last: bool = False) -> None:
    """Give a network its weights on the device, in that number format, independent of the file they came from.

    `channels_last` is the order of the weights of convolutions. On the CPU each weight is copied once at most, because copies take
    nearly all the time that loading takes; a GPU is sent what is stored and converts by itself.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = _placed(tensor.data, device, dtype if tensor.is_floating_point() else tensor.dtype, channels_last=channels_last)


def own_memory(network: torch.nn.Module) -> None:
    """Copy weights that are still mapped from their file; those that were converted or sent to a GPU have been copied already.

    Mapped weights lie at odd addresses, which changes the last bits of a picture with the length of a file's header, and writing
    into the file would kill the process (SIGBUS).
    """
    for parameter in network.parameters():
        if _is_mapped(parameter):
            parameter.data = parameter.data.clone()


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype, *, channels_last: bool) -> Tensor:
    order = torch.channels_last if channels_last and tensor.dim() == 4 else torch.contiguous_format
    if device.type != "cpu":
        return tensor.to(device).to(dtype, memory_format=order)
    if tensor.dtype == dtype and not _is_mapped(tensor):
        # By its strides, because convolutions of one pixel are contiguous in either order, and torch chooses by what the strides look like.
        return tensor.to(memory_format=order)
    return torch.empty_like(tensor, dtype=dtype, memory_format=order).copy_(tensor)


def _is_mapped(tensor: Tensor) -> bool:
    # Torch can grow the storage it allocated itself, and no other.
    return tensor.device.type == "cpu" and not tensor.untyped_storage().resizable()
