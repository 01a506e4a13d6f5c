"""Whether a network's inputs are worth bringing to eight bits too: by measurement of its largest layer, on the device it is on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdapi.pipelines.forwards.best_time import best_seconds
from sdapi.pipelines.quantizing.eight_bits import Way, quantized

_log = logging.getLogger(__name__)

Seconds = Callable[[Tensor, Way], float]
"""What a layer with such a weight takes, computed in such a way."""

_TOKENS = 1024
"""Of a picture of 512 px in the first blocks of a UNet, or of one of 1024 px further down."""
_LEAST_NUMBERS = 2**20
"""Of a weight: smaller ones are multiplied too quickly for a difference to be seen, or to matter."""
_WORTH_IT = 1.25
"""Inputs in eight bits cost exactness, so they must be faster than that; it also keeps the choice the same from load to load."""


def in_order(ways: Sequence[Way], weight: Tensor, seconds: Seconds) -> list[Way]:
    """The ways to try, best first. `weight` is the largest layer's; the last of `ways` is the plain one."""
    plain = ways[-1]
    if len(ways) == 1 or weight.numel() < _LEAST_NUMBERS:
        return [plain]
    plain_s = seconds(weight, plain)
    took: dict[Way, float] = {}
    for way in ways[:-1]:
        try:
            took[way] = seconds(weight, way)
        except Exception as error:  # noqa: BLE001 - whatever the device has against it, there is the plain way
            _log.debug("a way to quantize can't be used", extra={"way": way, "error": repr(error)})
    faster = [way for way in sorted(took, key=took.__getitem__) if took[way] * _WORTH_IT < plain_s]
    return [*faster, plain]


@torch.inference_mode()
def measured_seconds(weight: Tensor, way: Way) -> float:
    """The best of some runs. Raises what torchao raises where it can't be computed."""
    device = weight.device
    layer: nn.Parameter = quantized(weight, way)
    inputs = torch.randn(_TOKENS, weight.shape[1], device=device, dtype=weight.dtype)
    return best_seconds(lambda: functional.linear(inputs, layer), device=device)
