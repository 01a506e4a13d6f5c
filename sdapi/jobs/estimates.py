"""What a job costs and how long the queue will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sdapi.domain.generation import Img2Img, Txt2Img
from sdapi.domain.progress import Progress

DEFAULT_SPEED = 4.0
"""Cost units a second, until something was measured: about what two CPU cores do with the embedded model."""
_DECODE_STEPS = 1.6
"""Decoding costs about as much as so many guided steps (SD 1.5: 2.5 TFLOP against 1.6)."""


@dataclass(frozen=True)
class DrawnWork:
    """A job that succeeded: what it cost, when it ended, how long it was drawn."""

    cost: float
    finished_at: datetime
    seconds: float


def speed_of(drawn: Sequence[DrawnWork]) -> float | None:
    """Cost units a second while anything was being drawn; None without anything to go by.

    Jobs that shared forwards overlap in time, so their seconds count once: what matters to a queue is throughput.
    """
    busy_s, covered_until = 0.0, datetime.min.replace(tzinfo=UTC)
    for begin, end in sorted((work.finished_at - timedelta(seconds=work.seconds), work.finished_at) for work in drawn):
        busy_s += max(0.0, (end - max(begin, covered_until)).total_seconds())
        covered_until = max(covered_until, end)
    return sum(work.cost for work in drawn) / busy_s if busy_s else None


def cost_of(request: Txt2Img | Img2Img) -> float:
    """UNet forwards times megapixels of 512 x 512, plus decoding: proportional to the FLOPs for one model."""
    steps = max(1, int(request.steps * request.strength)) if isinstance(request, Img2Img) else request.steps
    halves = 2 if request.guidance_scale > 1 else 1
    area = request.width * request.height / (512 * 512)
    return request.samples * area * (steps * halves + 2 * _DECODE_STEPS) / 4


def cost_left(cost: float, progress: Progress | None) -> float:
    """What is left of a job that has come so far; all of it where nothing is known."""
    return cost if progress is None or not progress.steps else cost * (1 - progress.step / progress.steps)


def eta_s(*, own: float, ahead: Sequence[float], shared_by: int, speed: float | None) -> float:
    """Seconds until a job of which `own` cost is left is done, at the measured speed (cost units a second).

    `ahead` are the costs left of the jobs drawn or queued before it. Up to `shared_by` jobs share the device step by step, so one of
    those delays this job by no more than this job's own length; in a longer queue everything ahead has to be drawn first.
    """
    before = sum(ahead) if len(ahead) >= shared_by else sum(min(left, own) for left in ahead)
    return (before + own) / (speed or DEFAULT_SPEED)
