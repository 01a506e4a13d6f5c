"""Where a network lies, and in which number format.

diffusers' networks tell it as well, after a look through all their modules for one that is kept elsewhere: a millisecond each time, which
adds up where models change often. None of ours is.
"""

from __future__ import annotations

from typing import Any

import torch


def device_of(network: Any) -> torch.device:
    """Of all its parameters."""
    found: torch.device = next(network.parameters()).device
    return found


def dtype_of(network: Any) -> torch.dtype:
    """Of all its parameters; of weights in eight bits the one they stand for."""
    found: torch.dtype = next(network.parameters()).dtype
    return found
