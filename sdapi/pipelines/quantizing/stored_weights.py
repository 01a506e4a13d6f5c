"""What weights take in memory, those in eight bits included: they say of themselves what they stand for, not what they are kept as.

Knows them by torch's protocol for tensors that are made of others, so nothing here imports the library that makes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class MayBeQuantized(Protocol):
    """A model that can have such weights."""

    @property
    def is_quantized(self) -> bool:
        """Whether it has."""
        ...


def is_quantized(network: nn.Module) -> bool:
    """Whether any of its weights are in eight bits.

    Such weights can be multiplied with, and little else: they can't be joined, given to compiled forwards, or replaced by setting their
    `data`, only by that of the tensors they are made of.
    """
    return any(_parts(parameter) for parameter in network.parameters())


def stored_bytes(network: nn.Module) -> int:
    """What its parameters and buffers take."""
    return sum(tensor.nbytes for whole in (*network.parameters(), *network.buffers()) for tensor in _stored(whole))


def _stored(tensor: Tensor) -> Iterator[Tensor]:
    names = _parts(tensor)
    if not names:
        yield tensor
    for name in names:
        yield from _stored(getattr(tensor, name))


def _parts(tensor: Tensor) -> list[str]:
    flatten = getattr(tensor, "__tensor_flatten__", None)
    return [] if flatten is None else list(flatten()[0])
