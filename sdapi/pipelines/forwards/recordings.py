"""Forwards that were recorded once and are played again: fixed memory that inputs are copied into, whatever plays them.

A recording is made for a fixed number of samples, so smaller batches are padded by repeating their last sample.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sdapi.pipelines.forwards.forward_inputs import ForwardInputs

Run = Callable[[ForwardInputs], Tensor]
"""A forward, whichever way it is run."""


class Recording(Protocol):
    """A forward over memory that stays where it is."""

    @property
    def size_bytes(self) -> int:
        """What it was seen to take on the device, besides the inputs."""
        ...

    def play(self) -> Tensor:
        """Run it over what the inputs hold now. The next one to play, of any recording, may overwrite what this returns."""
        ...


class Recorder(Protocol):
    """Makes recordings, as CUDA graphs are."""

    def record(self, run: Run, inputs: ForwardInputs) -> Recording:
        """Of this forward over these inputs, whose memory is the recording's from now on. Raises whatever the device raised."""
        ...


class StaticInputs:
    """Memory for the inputs of recordings of one model. All share it, because only one of them is played at a time."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[object, ...], _Buffer] = {}

    def room_for(self, inputs: ForwardInputs, samples: int) -> Slots:
        """For so many samples like these. What earlier calls returned stays valid."""
        return Slots(
            [None if tensor is None else self._buffer(name, tensor, samples) for name, tensor in enumerate(inputs.tensors)], samples
        )

    def _buffer(self, name: int, like: Tensor, samples: int) -> _Buffer:
        key = (name, like.shape[1:], like.dtype)
        found = self._buffers.get(key)
        if found is None or len(found.tensor) < samples:
            found = self._buffers[key] = _Buffer(torch.empty(samples, *like.shape[1:], dtype=like.dtype, device=like.device))
        return found

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return sum(buffer.tensor.nbytes for buffer in self._buffers.values())


class Slots:
    """The inputs of one recording."""

    def __init__(self, buffers: list[_Buffer | None], samples: int) -> None:
        self._buffers = buffers
        self.samples = samples
        self.inputs = ForwardInputs.of([None if buffer is None else buffer.tensor[:samples] for buffer in buffers])

    def fill(self, inputs: ForwardInputs) -> None:
        """With these samples, at most as many as there is room for; the last one is repeated."""
        for buffer, tensor in zip(self._buffers, inputs.tensors, strict=True):
            if buffer is not None and tensor is not None:
                buffer.write(tensor, self.samples)


class _Buffer:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._holds: tuple[weakref.ref[Tensor], int] | None = None

    def write(self, source: Tensor, samples: int) -> None:
        # Keys and values are large, and the same object from step to step while nobody joins or leaves.
        if self._holds is not None and self._holds[0]() is source and self._holds[1] == samples:
            return
        count = len(source)
        self.tensor[:count].copy_(source)
        if count < samples:
            self.tensor[count:samples].copy_(source[-1:].expand(samples - count, *source.shape[1:]))
        self._holds = (weakref.ref(source), samples)
