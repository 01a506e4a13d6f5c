"""Queries, keys and values of a self-attention by one matrix product in the place of three.

Their weights lie one after the other in memory, so the three are also one: nothing is copied, renamed or kept besides, and whoever
changes, moves or hooks one of the modules gets three products again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .best_time import best_seconds

_log = logging.getLogger(__name__)

_SIDES = 3
_WORTH = 0.99
"""As long as this share of the three together it may take at most, to be taken in their place."""


class JoiningChoice:
    """Where one product is quicker than three, by measurement; of one device and number format. For use from the device thread only."""

    def __init__(self, seconds: Callable[[Callable[[], Tensor]], float]) -> None:
        """`seconds` measures."""
        self._seconds = seconds
        self._is_quicker: dict[Hashable, bool] = {}

    def is_quicker(self, shape: Hashable, joined: Callable[[], Tensor], apart: Callable[[], Tensor]) -> bool:
        """The first time for a shape both are run some times, and the device must not be recording then."""
        if shape not in self._is_quicker:
            took = {"apart": self._seconds(apart)}
            try:
                took["joined"] = self._seconds(joined)
            except RuntimeError as error:
                # A kernel that can't read every third part of its memory.
                _log.debug("projections can't be joined", extra={"shape": shape, "error": repr(error)})
            self._is_quicker[shape] = took.get("joined", math.inf) <= _WORTH * took["apart"]
            _log.info("projections measured", extra={"shape": shape, "seconds": took})
        return self._is_quicker[shape]


def joining_choice(unet: Any) -> JoiningChoice:
    """For the device that the network is on."""
    return JoiningChoice(partial(best_seconds, device=unet.device))


def lay_together(attention: Any) -> None:
    """Lay the weights of its three projections one after the other, where they are plain ones without biases. Their numbers stay."""
    sides = _sides(attention)
    if not _are_plain(sides) or joined_weight(attention) is not None:
        return
    with torch.no_grad():
        together = torch.cat([side.weight for side in sides])
    for side, part in zip(sides, together.chunk(_SIDES), strict=True):
        side.weight.data = part


def joined_weight(attention: Any) -> Tensor | None:
    """(3 * outputs, inputs), in the memory of the three; None where they don't lie together, or something stands on one of them."""
    sides = _sides(attention)
    if not _are_plain(sides) or any(side._forward_hooks or side._forward_pre_hooks for side in sides):  # noqa: SLF001 - no other way
        return None
    first: Tensor = sides[0].weight
    outputs, inputs = first.shape
    memory, begin = first.untyped_storage().data_ptr(), first.data_ptr()
    for number, side in enumerate(sides):
        weight = side.weight
        is_next = weight.untyped_storage().data_ptr() == memory and weight.data_ptr() == begin + number * first.nbytes
        if not (is_next and weight.is_contiguous() and first.nbytes):
            return None
    return first.as_strided((_SIDES * outputs, inputs), (inputs, 1))


def _sides(attention: Any) -> tuple[Any, Any, Any]:
    return attention.to_q, attention.to_k, attention.to_v


def _are_plain(sides: tuple[Any, Any, Any]) -> bool:
    # By name, because torch's own types say that there always is one.
    if any(type(side) is not nn.Linear or getattr(side, "bias", None) is not None for side in sides):
        return False
    weights = [side.weight for side in sides]
    return all(type(weight) is nn.Parameter for weight in weights) and len({(one.shape, one.dtype, one.device) for one in weights}) == 1
