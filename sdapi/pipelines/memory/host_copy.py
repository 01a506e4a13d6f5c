"""The weights of a model's networks in host memory, byte for byte as they lay on the device, and how networks lose and regain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdapi.pipelines.memory.transfers import Copy, Transfers

_BLOCK_BYTES: Final = 2**28
"""Of host memory fetched at once. Locking pages makes the whole device wait, so it is done seldom; and torch rounds up to powers of two."""
_PLAIN: Final = (Tensor, nn.Parameter)
_ALIGNMENT: Final = 512
"""Of what lies in a block: copies are fastest so."""


class GivenUp(Exception):
    """A copy that was begun is not wanted any more."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor's numbers are."""

    memory: int
    """Which of the pieces of memory, of which tensors may share one."""
    offset: int
    """In numbers."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Layout:
    """How tensors lie in memory: their order, their number formats, and which of them are the same numbers."""

    places: tuple[_Place, ...]
    sizes: tuple[int, ...]
    """Bytes of each piece of memory."""

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Which pieces go into one block of host memory, in order."""
        blocks: list[list[int]] = []
        taken_bytes = 0
        for piece, size in enumerate(self.sizes):
            if not blocks or taken_bytes + _aligned(size) > _BLOCK_BYTES:
                blocks.append([])
                taken_bytes = 0
            blocks[-1].append(piece)
            taken_bytes += _aligned(size)
        return tuple(map(tuple, blocks))

    def block_bytes(self, block: tuple[int, ...]) -> int:
        """What is fetched for these pieces."""
        return _power_of_two(sum(_aligned(self.sizes[piece]) for piece in block))

    @property
    def host_bytes(self) -> int:
        """What a copy takes in host memory."""
        return sum(map(self.block_bytes, self.blocks))


def weights_of(networks: Sequence[nn.Module]) -> list[Tensor]:
    """Parameters and buffers, each once, always in the same order; what those of several tensors are made of, as weights in eight bits."""
    found = (part for network in networks for tensor in (*network.parameters(), *network.buffers()) for part in _made_of(tensor))
    return list({id(tensor): tensor for tensor in found}.values())


def _made_of(tensor: Any) -> Iterator[Tensor]:
    if type(tensor) in _PLAIN or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _made_of(getattr(tensor, name))


def can_be_copied(weights: Sequence[Tensor], device: torch.device) -> bool:
    """Whether all are plain numbers on that device: others may keep more than torch tells of."""
    return all(type(one) in _PLAIN and one.layout == torch.strided and one.device.type == device.type for one in weights)


def layout_of(weights: Sequence[Tensor]) -> Layout:
    """How they lie."""
    return Layout(*_places(weights))


def let_go(weights: Sequence[Tensor]) -> None:
    """Leave them without numbers: the device's memory is free, whoever still holds the networks."""
    for weight in weights:
        weight.data = torch.empty(0, dtype=weight.dtype)


@dataclass(eq=False)
class HostCopy:
    """Of weights that nobody changes, so it holds for as long as they stay what they were when it was made, or were brought back."""

    layout: Layout
    _blocks: list[Tensor] = field(default_factory=list)
    _addresses: tuple[int, ...] = ()
    """Of the pieces on the device."""

    @classmethod
    def of(cls, weights: Sequence[Tensor], transfers: Transfers, is_wanted: Callable[[], bool]) -> HostCopy:
        """Blocks for as long as that takes: some tenths of a second a gigabyte where memory has to be locked, else hundredths.

        `is_wanted` is asked now and then. Raises GivenUp, and RuntimeError where the host has no room.
        """
        copy = cls(layout_of(weights), _addresses=_addresses(weights))
        pieces = _pieces(weights)

        def copies() -> Iterator[Copy]:
            for block in copy.layout.blocks:
                # Fetched one by one: while memory is locked for the next, the device copies into the last.
                memory = transfers.host_block(copy.layout.block_bytes(block))
                copy._blocks.append(memory)
                for piece, part in copy._parts(block, memory):
                    if not is_wanted():
                        raise GivenUp
                    yield part, _bytes(pieces[piece])

        transfers.copy(copies())
        return copy

    @property
    def size_bytes(self) -> int:
        """What it takes in host memory."""
        return sum(block.nbytes for block in self._blocks)

    @property
    def is_page_locked(self) -> bool:
        """Whether all of it is."""
        return all(block.is_pinned() for block in self._blocks)

    def is_of(self, weights: Sequence[Tensor]) -> bool:
        """Whether they are the very ones it was made of, or that `restore` gave their numbers last."""
        return self._addresses == _addresses(weights) and self.layout == layout_of(weights)

    def restore(self, weights: Sequence[Tensor], transfers: Transfers) -> None:
        """Give weights without numbers back what they had, on the device; those that shared memory share it again.

        Raises torch.OutOfMemoryError before any of them has changed.
        """
        # All before the first is copied: the device's allocator hands out memory in the order of another stream than that of copies.
        pieces = [torch.empty(size, dtype=torch.uint8, device=transfers.device) for size in self.layout.sizes]
        blocks = zip(self.layout.blocks, self._blocks, strict=True)
        transfers.copy([(pieces[piece], part) for block, memory in blocks for piece, part in self._parts(block, memory)])
        for weight, place in zip(weights, self.layout.places, strict=True):
            empty = torch.empty(0, dtype=place.dtype, device=transfers.device)
            weight.data = empty.set_(pieces[place.memory].untyped_storage(), place.offset, place.shape, place.stride)
        self._addresses = _addresses(weights)

    def _parts(self, block: tuple[int, ...], memory: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each piece of a block, and its bytes."""
        start = 0
        for piece in block:
            size = self.layout.sizes[piece]
            yield piece, memory[start : start + size]
            start += _aligned(size)


def _pieces(weights: Sequence[Tensor]) -> list[torch.UntypedStorage]:
    """The pieces of memory that they lie in, each once."""
    storages = (weight.untyped_storage() for weight in weights)
    return list({storage.data_ptr(): storage for storage in storages}.values())


def _addresses(weights: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(storage.data_ptr() for storage in _pieces(weights))


def _places(weights: Sequence[Tensor]) -> tuple[tuple[_Place, ...], tuple[int, ...]]:
    pieces = _pieces(weights)
    number = {storage.data_ptr(): place for place, storage in enumerate(pieces)}
    places = []
    for weight in weights:
        piece = number[weight.untyped_storage().data_ptr()]
        places.append(_Place(piece, int(weight.storage_offset()), tuple(weight.shape), tuple(weight.stride()), weight.dtype))
    return tuple(places), tuple(storage.nbytes() for storage in pieces)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _power_of_two(size_bytes: int) -> int:
    return 1 << max(0, size_bytes - 1).bit_length()
