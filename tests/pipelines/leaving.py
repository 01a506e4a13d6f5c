"""For tests of models that leave the device and come back: the device is the CPU, so leaving really copies, and returning really builds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.host_copy import weights_of
from sdapi.pipelines.memory.host_tier import HostTier, Packed
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.memory.transfers import Copy

BLOCK_BYTES = 4096
"""What one of these models takes in host memory."""


class PlainTransfers:
    """Of a device whose memory is the host's: what the tier does is the same there."""

    def __init__(self, device: torch.device) -> None:
        self.device: Final = device

    def host_block(self, size_bytes: int) -> Tensor:
        """See Transfers."""
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, copies: Iterable[Copy]) -> None:
        """See Transfers."""
        for target, source in copies:
            target.copy_(source)

    def release(self) -> None:
        """See Transfers: nothing is kept."""


class Watched(PlainTransfers):
    """Counts what is copied; a copy waits for `gate`, and fails with `trouble`."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.copied_bytes = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.trouble: Exception | None = None

    def copy(self, copies: Iterable[Copy]) -> None:
        """See Transfers."""
        super().copy(self._looked_at(copies))

    def _looked_at(self, copies: Iterable[Copy]) -> Iterator[Copy]:
        for target, source in copies:
            self.begun.set()
            assert self.gate.wait(20)
            if self.trouble is not None:
                raise self.trouble
            self.copied_bytes += source.nbytes
            yield target, source


class Small:
    """A model that can wait in host memory, where it takes BLOCK_BYTES."""

    def __init__(self, name: str, layer: nn.Linear | None = None) -> None:
        self.name = name
        self.layer = layer or nn.Linear(30, 29).requires_grad_(requires_grad=False)

    @property
    def size_bytes(self) -> int:
        return 4000

    def packed(self) -> Packed[Small]:
        name, layer = self.name, self.layer
        return Packed((layer,), lambda: Small(name, layer))


def storages(*networks: nn.Module) -> list[StorageWeakRef]:
    """Those of their weights now; each tells whether it has been freed.

    But for buffers that are views of others, as some are on the CPU they were made on; what is sent to a GPU is a tensor of its own.
    """
    return [StorageWeakRef(one.untyped_storage()) for one in weights_of(networks) if one._base is None]  # type: ignore[no-untyped-call]


def are_freed(refs: list[StorageWeakRef]) -> bool:
    """Whether nothing holds any of them any more."""
    return all(ref.expired() for ref in refs)  # type: ignore[no-untyped-call]


@dataclass
class Place:
    """A residency with a host tier; everything is noted in order."""

    budget_bytes: int = 4000
    host_bytes: int = 2**20
    load: Callable[[str], Small] = Small
    unload_after_s: float = 0.0
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transfers = Watched()
        self.host = HostTier(self.host_bytes, self.transfers)
        self.versions: dict[str, str | None] = {}
        released = lambda: self.events.append("released")  # noqa: E731
        self.memory = Memory(self.budget_bytes, unload_after_s=self.unload_after_s, release=released, host=self.host)
        self.residency: Residency[Small] = Residency(self._load, self.memory, lambda _: 4000, lambda name: self.versions.get(name, "1"))

    def _load(self, name: str) -> Small:
        self.events.append(f"load {name}")
        return self.load(name)

    @property
    def loads(self) -> list[str]:
        return [event.removeprefix("load ") for event in self.events if event.startswith("load ")]

    def use(self, *names: str) -> Small:
        """One after another; the last."""
        for name in names:
            model = self.leased(name)
            self.residency.release(name)
        return model

    def leased(self, name: str) -> Small:
        while (model := self.residency.lease(name)) is None:
            self.memory.wait_for_load(5)
        return model

    def settle(self) -> None:
        """Wait until everything that leaves has left."""
        self.host.wait_until_left()

    @property
    def waiting(self) -> list[str]:
        """Those in host memory, by name."""
        return sorted(self.host.waiting(self.residency))

    def close(self) -> None:
        self.memory.close_host()
        self.residency.close()
