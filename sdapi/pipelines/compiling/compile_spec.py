"""What a compiled forward is compiled for, as it is handed to the process that compiles it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from sdapi.pipelines.forwards.forward_inputs import ForwardInputs


@dataclass(frozen=True)
class CompileSpec:
    """Equal for all checkpoints of one architecture: weights are no part of what is compiled."""

    config: str
    """Of the UNet, as JSON."""
    dtype: str
    device: str
    is_channels_last: bool
    threads: int
    """Of the CPU; they are compiled in."""
    inputs: tuple[tuple[tuple[int, ...], str] | None, ...]
    """Shape and number format of each, in the order of `ForwardInputs.told`."""
    made_with: str
    """Versions, and what the device can compute."""

    @property
    def name(self) -> str:
        """Of the file that the compiled forward is kept in."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def as_json(self) -> str:
        """See `from_json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> CompileSpec:
        """What `as_json` gave."""
        found = json.loads(text)
        inputs = tuple(None if each is None else (tuple(each[0]), str(each[1])) for each in found.pop("inputs"))
        return CompileSpec(**found, inputs=inputs)


def compile_spec(unet: Any, inputs: ForwardInputs) -> CompileSpec:
    """For this network and these shapes, on its device."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    device: torch.device = unet.device
    computes = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return CompileSpec(
        config=json.dumps(config, sort_keys=True),
        dtype=_name(unet.dtype),
        device=str(device),
        is_channels_last=unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last),
        threads=torch.get_num_threads(),
        inputs=tuple(None if tensor is None else _described(tensor) for tensor in inputs.told),
        made_with=f"torch {torch.__version__}, diffusers {diffusers.__version__}, {computes}",
    )


def _described(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(tensor.shape), _name(tensor.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
