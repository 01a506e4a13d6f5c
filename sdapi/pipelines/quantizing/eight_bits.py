"""Weights of linear layers in eight bits, made and multiplied by torchao. Nothing else imports it: it is an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdapi.domain.quantization import EightBits

_MULTIPLE: Final = 16
"""Kernels for eight bits take matrices whose sides are multiples of it."""
_LEAST_NUMBERS: Final = 32 * 32
"""Each row brings a scale along; smaller weights would hardly get smaller."""
_PER_SAMPLE: Final = ("time_emb",)
"""Of the layers that only ever see one row of numbers per sample: little to gain, and a part of everything the network says."""
_HEADROOM: Final = 2.0**-7
"""What inputs are scaled by in float16. int8 weights go up to 127 where the true ones are fractions, and sums over them pass 65,504."""
_MULTIPLIES_FLOAT8: Final = (8, 9)
"""The least CUDA compute capability that does, natively."""


class NotInstalledError(Exception):
    """torchao can't be imported; says why."""


@dataclass(frozen=True)
class Way:
    """How layers compute with weights in eight bits."""

    format: EightBits
    has_inputs_too: bool = False
    """Whether their inputs are brought to eight bits at every call, each token by its own scale; else the weights are widened there."""


def ways(bits: EightBits, *, device: torch.device, dtype: torch.dtype) -> tuple[Way, ...]:
    """Those that a network in that number format can be run in on that device. The last one always can."""
    weights_alone = Way(bits)
    if bits == "int8" or (device.type == "cuda" and dtype == torch.bfloat16 and _multiplies_float8(device)):
        return Way(bits, has_inputs_too=True), weights_alone
    return (weights_alone,)


def _multiplies_float8(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _MULTIPLIES_FLOAT8


def large_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """By path, the linear layers that make up most of a network: those of its repeated blocks.

    What stands before and after the blocks is small, and all of a picture goes through it.
    """
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, nn.Linear) and _is_large(path, layer)}


def _is_large(path: str, layer: nn.Linear) -> bool:
    in_blocks = any(part.isdigit() for part in path.split(".")) and not any(name in path for name in _PER_SAMPLE)
    fits = not (layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE)
    return in_blocks and fits and layer.weight.numel() >= _LEAST_NUMBERS


def quantized(weight: Tensor, way: Way) -> nn.Parameter:
    """(outputs, inputs) in eight bits, where it lies; `weight` stays as it is. Raises NotInstalledError, and what torchao raises."""
    with _importing():
        from torchao.quantization import quantize_

        config = _config(way)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    quantize_(layer, config)
    if type(layer.weight) is nn.Parameter:
        raise ValueError(f"a weight of {list(weight.shape)} can't be quantized")
    made: nn.Parameter = layer.weight
    return _with_headroom(made) if way == Way("int8") and weight.dtype == torch.float16 else made


def _config(way: Way) -> Any:
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )

    # Its settings for torch's compiler would count for the whole process.
    if way.format == "int8":
        kind = Int8DynamicActivationInt8WeightConfig if way.has_inputs_too else Int8WeightOnlyConfig
        return kind(granularity=PerRow(), set_inductor_config=False)
    if way.has_inputs_too:
        return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    return Float8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False)


def _with_headroom(weight: Any) -> nn.Parameter:
    """The same, by torchao's scale for inputs: a power of two, so nothing is rounded but what is next to nothing."""
    from torchao.quantization import Int8Tensor

    scaled = Int8Tensor(
        weight.qdata,
        weight.scale / _HEADROOM,
        weight.block_size,
        weight.dtype,
        zero_point=weight.zero_point,
        act_pre_scale=torch.tensor(_HEADROOM, dtype=weight.dtype, device=weight.device),
    )
    return nn.Parameter(scaled, requires_grad=False)


@contextmanager
def _importing() -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError) as error:
        raise NotInstalledError(
            f"torchao is not installed, or not for this torch ({error}): pip install '.[quantized]' in the checkout"
        ) from error
