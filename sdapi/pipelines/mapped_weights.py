"""Weights that are still mapped from their file, and how a network comes to own what it was given."""

from __future__ import annotations

import torch


def own_memory(network: torch.nn.Module) -> None:
    """Copy weights that are still mapped from their file; those that were converted or sent to a GPU have been copied already.

    Mapped weights lie at odd addresses, which changes the last bits of a picture with the length of a file's header, and writing
    into the file would kill the process (SIGBUS).
    """
    for parameter in network.parameters():
        # Torch can grow the storage it allocated itself, and no other.
        if parameter.device.type == "cpu" and not parameter.untyped_storage().resizable():
            parameter.data = parameter.data.clone()
