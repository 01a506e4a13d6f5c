"""In which number format a device draws: the fastest of those that draw the same picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_MULTIPLIES_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls the CPU features that multiply bfloat16 without widening it first, on x86 and on Arm."""


@dataclass(frozen=True)
class NumberFormats:
    """Of one device."""

    predicting: torch.dtype
    """Of UNets, what reads their prompts, and their control nets."""
    pictures: torch.dtype
    """Of what makes pixels: VAEs, upscalers. Never bfloat16, of which eight bits are as many as a colour has: rounding would show."""
    others: torch.dtype
    """Of pipelines that are called whole, where their files leave the choice."""
    is_chosen: bool
    """Whether the operator named the format."""


def number_formats(name: str, device: torch.device) -> NumberFormats:
    """`name` is float32, bfloat16, float16 or "auto".

    "auto" is float16 on a GPU. On a CPU it is bfloat16 where the CPU multiplies that natively, else float32: the picture stays the same
    to the eye, and the larger the model, the more time that saves (`python -m benchmarks.formats`).
    """
    if name != "auto":
        chosen = _BY_NAME[name]
        return NumberFormats(chosen, _for_pictures(chosen, device), chosen, is_chosen=True)
    if device.type == "cuda":
        return NumberFormats(torch.float16, torch.float16, torch.float16, is_chosen=False)
    found = torch.cpu.get_capabilities()
    predicting = torch.bfloat16 if device.type == "cpu" and any(found.get(name) for name in _MULTIPLIES_BFLOAT16) else torch.float32
    return NumberFormats(predicting, torch.float32, torch.float32, is_chosen=False)


def _for_pictures(predicting: torch.dtype, device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" and predicting != torch.float32 else torch.float32
