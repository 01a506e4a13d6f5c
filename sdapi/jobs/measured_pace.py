"""What a device was measured to take, as far as that can be; and by it a pace for each model, for sizes that weren't measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sdapi.domain.drawing_speeds import DrawingSpeeds, Measured, WorkSort

from .estimates import area_of, decode_cost, forward_cost
from .queue_model import Pace

_FEWEST: Final = 2
"""Points a line takes."""
_COMPARED: Final = 32
"""Sizes of a model, those drawn last."""


def plausible(speeds: DrawingSpeeds) -> DrawingSpeeds:
    """The same without what can't be: that less work takes longer than more, or a batch longer than its parts one by one.

    The first forwards of a size take longer than all that follow, because kernels are chosen and memory is fetched.
    """
    alike: dict[WorkSort, list[WorkSort]] = {}
    for sort in speeds.by_sort:
        alike.setdefault(replace(sort, width=0, height=0), []).append(sort)
    found = dict(speeds.by_sort)
    for sorts in alike.values():
        # From the largest on, so that each needs to be compared with those only that are larger.
        larger: list[Measured] = []
        for sort in sorted(sorts[-_COMPARED:], key=lambda one: one.width * one.height, reverse=True):
            found[sort] = _no_slower_than(larger, found[sort])
            larger.append(found[sort])
    return DrawingSpeeds(found)


def _no_slower_than(others: Sequence[Measured], measured: Measured) -> Measured:
    least_s = math.inf
    seconds: dict[int, float] = {}
    for samples in sorted(measured.seconds, reverse=True):
        of_larger = (s for other in others for count, s in other.seconds.items() if count >= samples)
        least_s = min(least_s, measured.seconds[samples], min(of_larger, default=math.inf))
        seconds[samples] = least_s
    # Of equal parts: n samples take at most n / m times as long as m.
    each_s = math.inf
    for samples in sorted(seconds):
        seconds[samples] = min(seconds[samples], each_s * samples)
        each_s = min(each_s, seconds[samples] / samples)
    return Measured(seconds, measured.worth)


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
    """The line of least squares of the relative errors, near the usual one as far as few points tell. Points are (cost, seconds)."""
    usual = Pace()
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    middle = sum(weight * cost for weight, (cost, _) in zip(weights, points, strict=True)) / total
    height = sum(weight * seconds for weight, (_, seconds) in zip(weights, points, strict=True)) / total
    spread = sum(weight * (cost - middle) ** 2 for weight, (cost, _) in zip(weights, points, strict=True))
    slant = sum(weight * (cost - middle) * (seconds - height) for weight, (cost, seconds) in zip(weights, points, strict=True))
    # What one point more would say: one that lies on the usual line through the middle, where a forward costs as much as the work in it.
    usual_unit_s = usual.unit_s * height / usual.step_s(middle)
    doubt = total / len(points) * (usual.forward_s / usual.unit_s) ** 2
    unit_s = (max(0.0, slant) + doubt * usual_unit_s) / (spread + doubt)
    forward_s = height - unit_s * middle
    if forward_s < 0:
        forward_s, unit_s = 0.0, height / middle
    end_weights = [seconds / (unit_s * cost) for cost, seconds in ends]
    return Pace(forward_s, unit_s, sum(end_weights) / len(end_weights) if end_weights else usual.end_weight)
