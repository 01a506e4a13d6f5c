"""Weighted sums of each row's tensors, for all rows of a batch in a few operations, however many rows there are."""

from __future__ import annotations

import torch
from torch import Tensor


def added_up(shares: Tensor, taken: Tensor) -> Tensor:
    """(rows, sums, n): `taken` (rows, m, n), of each row as often as `shares` (rows, sums, m) say. Both on one device.

    To the last bit the same for a row whatever its neighbours are, also where shares that are zero make it as long as they are.
    """
    # Not a matrix product: that may round to TF32, whose ten bits would be seen after some steps, and adds up in an order that
    # depends on its size.
    first, *others = shares[..., None].unbind(dim=2)
    total = first * taken[:, None, 0]
    for number, share in enumerate(others, start=1):
        total.addcmul_(share, taken[:, None, number])
    return total


def brought(numbers: Tensor, device: torch.device) -> Tensor:
    """`numbers`, which are on the CPU, on `device`, without waiting for what that still does."""
    if device.type != "cuda":
        return numbers.to(device)
    # From memory that may be paged out, the copy would begin when the device has done all it was given before, and be waited for.
    return numbers.pin_memory().to(device, non_blocking=True)
