"""Whether something failed because the device has no memory left."""

from __future__ import annotations

import torch

_SAID = ("can't allocate memory", "out of memory", "alloc_failed")
"""By torch's own memory on a CPU, and by libraries of CUDA that take memory past torch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Also where the device, or what ran on it, said something else while it was at that."""
    known = {id(error)}
    while not _says_so(error):
        behind = error.__cause__ or error.__context__
        if behind is None or id(behind) in known:
            return False
        known.add(id(behind))
        error = behind
    return True


def _says_so(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)
