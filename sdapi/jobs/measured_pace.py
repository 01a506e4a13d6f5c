"""A pace for each model by what its device was measured to take: a line through all its forwards, for sizes that weren't measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sdapi.domain.drawing_speeds import DrawingSpeeds

from .estimates import area_of, decode_cost, forward_cost
from .queue_model import Pace

_FEWEST: Final = 2
"""Points a line takes."""


def fit(speeds: DrawingSpeeds) -> dict[str, Pace]:
    """By model, for those that enough is known of."""
    points: dict[str, list[tuple[float, float]]] = {}
    ends: dict[str, list[tuple[float, float]]] = {}
    for sort, measured in speeds.by_sort.items():
        area = area_of(sort.width, sort.height)
        if sort.tokens is None:
            ends.setdefault(sort.model, []).append((decode_cost(area), measured.of(1)))
        elif not sort.merges_tokens:
            points.setdefault(sort.model, []).extend((forward_cost(area, samples), s) for samples, s in measured.seconds.items())
    return {model: _pace(known, ends.get(model, ())) for model, known in points.items() if len(known) >= _FEWEST}


def _pace(points: Sequence[tuple[float, float]], ends: Sequence[tuple[float, float]]) -> Pace:
    """The line of least squares of the relative errors, never falling and never below zero. Points are (cost, seconds)."""
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    middle = sum(weight * cost for weight, (cost, _) in zip(weights, points, strict=True)) / total
    height = sum(weight * seconds for weight, (_, seconds) in zip(weights, points, strict=True)) / total
    spread = sum(weight * (cost - middle) ** 2 for weight, (cost, _) in zip(weights, points, strict=True))
    slant = sum(weight * (cost - middle) * (seconds - height) for weight, (cost, seconds) in zip(weights, points, strict=True))
    # Of one size alone nothing can be told of others: all of it then is the work's.
    unit_s = slant / spread if spread > 0 and slant > 0 else height / middle
    forward_s = height - unit_s * middle
    if forward_s < 0:
        forward_s, unit_s = 0.0, height / middle
    usual = Pace()
    weights_of_ends = [seconds / (unit_s * cost) for cost, seconds in ends]
    return Pace(forward_s, unit_s, sum(weights_of_ends) / len(weights_of_ends) if weights_of_ends else usual.end_weight)
