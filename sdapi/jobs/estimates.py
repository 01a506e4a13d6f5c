"""What a job costs and how long the queue will take."""

from __future__ import annotations

from sdapi.domain.generation import Img2Img, Txt2Img
from sdapi.domain.progress import Progress

DEFAULT_SPEED = 4.0
"""Cost units a second, until something was measured: about what two CPU cores do with the embedded model."""
_DECODE_STEPS = 1.6
"""Decoding costs about as much as so many guided steps (SD 1.5: 2.5 TFLOP against 1.6)."""


def cost_of(request: Txt2Img | Img2Img) -> float:
    """UNet forwards times megapixels of 512 x 512, plus decoding: proportional to the FLOPs for one model."""
    steps = max(1, int(request.steps * request.strength)) if isinstance(request, Img2Img) else request.steps
    halves = 2 if request.guidance_scale > 1 else 1
    area = request.width * request.height / (512 * 512)
    return request.samples * area * (steps * halves + 2 * _DECODE_STEPS) / 4


def eta_s(*, cost_before: float, own_cost: float, progress: Progress | None, speed: float | None) -> float:
    """Seconds until a job is done: everything before it, then what is left of itself, at the measured speed (cost units a second)."""
    left = 1.0 if progress is None or not progress.steps else 1 - progress.step / progress.steps
    return (cost_before + own_cost * left) / (speed or DEFAULT_SPEED)
