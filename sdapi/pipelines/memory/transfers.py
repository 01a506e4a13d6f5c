"""Bytes between a device's memory and the host's: page-locked there, so that a GPU copies them by itself, beside what it draws."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, Protocol

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

Copy = tuple[Tensor, Tensor]
"""Where to, and where from: bytes, as many on both sides."""


class Transfers(Protocol):
    """Of one device; for use from any thread, several at once."""

    @property
    def device(self) -> torch.device:
        """The device."""
        ...

    def host_block(self, size_bytes: int) -> Tensor:
        """(size_bytes,) of bytes in host memory. Raises RuntimeError where there is no room."""
        ...

    def copy(self, copies: Iterable[Copy]) -> None:
        """Return when all has arrived, even if `copies` raises, which comes out of here. The device must be given the next one at once."""
        ...

    def release(self) -> None:
        """Give host memory back to the system that is kept for the next `host_block`."""
        ...


class CudaTransfers:
    """Of a CUDA device: on a stream of their own, beside the steps."""

    def __init__(self, device: torch.device) -> None:
        self.device: Final = device
        self._blocks = PageLockedBlocks()
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def host_block(self, size_bytes: int) -> Tensor:
        """See Transfers."""
        with torch.cuda.device(self.device):  # every thread has a current device of its own
            return self._blocks.block(size_bytes)

    def copy(self, copies: Iterable[Copy]) -> None:
        """See Transfers."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            # What is copied from has been written by now, and what is copied to may have been another's until now: both on that stream.
            self._stream.wait_stream(torch.cuda.default_stream(self.device))
            try:
                for target, source in copies:
                    target.copy_(source, non_blocking=True)
            finally:
                self._stream.record_event().synchronize()

    def release(self) -> None:
        """See Transfers."""
        torch.accelerator.empty_host_cache()


class PageLockedBlocks:
    """Host memory that stays where it is. Locking takes a second for one or two gigabytes; torch keeps blocks that were, for the next."""

    def __init__(self) -> None:
        self._has_warned = False

    def block(self, size_bytes: int) -> Tensor:
        """(size_bytes,) of bytes: ordinary memory, through which copies are slower, where the system locks no more."""
        try:
            return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("host memory can't be page-locked: models will come back from it more slowly", extra={"error": repr(error)})
            return torch.empty(size_bytes, dtype=torch.uint8)
