"""How quickly each model is drawn with, learned from the jobs that were: history is replayed until the model of the queue gets it right."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .estimates import Shape
from .queue_model import Demand, Pace, Paces, Room, finish_times

_FIRST_ROUNDS: Final = 6
"""Of a model that was never measured; later each job only shifts what is known."""
_TRY: Final = 1.5
_DOUBT: Final = 0.02
"""What a deviation from the default proportions costs against the error of the replay: few jobs are no reason to move far."""
_MAX_FACTOR: Final = 50.0


@dataclass(frozen=True)
class DrawnJob:
    """A job that was drawn, or is being drawn and kept the device busy meanwhile."""

    id: int
    shape: Shape
    worker: str
    """Jobs of one worker shared a device."""
    began_s: float
    """When its drawing began, on any clock."""
    seconds: float | None
    """How long it was drawn; None while it isn't finished."""


def learned(paces: Paces, history: Sequence[DrawnJob], room: Room, *, complete_since_s: float = -math.inf) -> Paces:
    """The paces that explain the history best, beginning at `paces`; the latest drawn model last.

    Jobs that began before `complete_since_s` may have had company the history does not tell of; they are not reckoned with.
    """
    told = [job for job in history if job.seconds is not None and job.seconds > 0 and job.began_s >= complete_since_s]
    result = dict(paces.by_model)
    for model in _latest_last(told):
        rounds = 1 if model in result else _FIRST_ROUNDS
        pace = Paces(result).of(model)
        result.pop(model, None)
        if sum(job.shape.model == model for job in told) == 1:
            pace = _hint(pace, model, result, history, told, room)
        else:
            for _ in range(rounds):
                pace = _better(pace, model, result, history, told, room)
        result[model] = pace
    return Paces(result)


def _latest_last(told: Iterable[DrawnJob]) -> list[str]:
    ends = sorted((job.began_s + (job.seconds or 0), job.shape.model) for job in told)
    return list(dict.fromkeys(model for _, model in reversed(ends)))[::-1]


def _hint(pace: Pace, model: str, others: dict[str, Pace], history: Sequence[DrawnJob], told: Sequence[DrawnJob], room: Room) -> Pace:
    """What a single job says: that it was quick proves that the device is; that it was slow may be because it was the first."""
    mine = [job for job in told if job.shape.model == model]
    factor, _ = _correction(pace, model, others, history, mine, room)
    return pace.times(math.sqrt(factor) if factor > 1 else factor)


def _better(pace: Pace, model: str, others: dict[str, Pace], history: Sequence[DrawnJob], told: Sequence[DrawnJob], room: Room) -> Pace:
    """The best of a pace and its neighbours, each scaled to the history first."""
    mine = [job for job in told if job.shape.model == model]
    neighbours = (
        pace,
        replace(pace, forward_s=pace.forward_s * _TRY),
        replace(pace, forward_s=pace.forward_s / _TRY),
        replace(pace, end_weight=pace.end_weight * _TRY),
        replace(pace, end_weight=pace.end_weight / _TRY),
    )
    tried = []
    for candidate in neighbours:
        first, _ = _correction(candidate, model, others, history, mine, room)
        scaled = candidate.times(first)
        factor, error = _correction(scaled, model, others, history, mine, room)
        tried.append((error + _doubt(scaled), scaled.times(_without_overshooting(first, factor))))
    return min(tried, key=lambda pair: pair[0])[1]


def _without_overshooting(first: float, second: float) -> float:
    """The second correction; where it takes back part of the first, about as much of it as hits the mark.

    In a busy queue, jobs take longer by more than what each step does, because they are longer in one another's way.
    """
    one, other = math.log(first), math.log(second)
    return math.exp(other * one / (one - other)) if one * other < 0 else second


def _correction(
    pace: Pace, model: str, others: dict[str, Pace], history: Sequence[DrawnJob], mine: Sequence[DrawnJob], room: Room
) -> tuple[float, float]:
    """How much slower the jobs really were than replayed, and how unevenly."""
    replayed = _replay(Paces({**others, model: pace}), history, room)
    ratios = [math.log(job.seconds / replayed[job.id]) for job in mine if job.seconds is not None and replayed.get(job.id, 0) > 0]
    if not ratios:
        return 1.0, 0.0
    middle = statistics.median(ratios)
    factor = min(_MAX_FACTOR, max(1 / _MAX_FACTOR, math.exp(middle)))
    return factor, statistics.fmean(abs(ratio - middle) for ratio in ratios)


def _replay(paces: Paces, history: Sequence[DrawnJob], room: Room) -> dict[int, float]:
    """How long each job of the history would have been drawn at these paces."""
    workers = list(dict.fromkeys(job.worker for job in history))
    demands = [Demand(job.id, job.shape, at_s=job.began_s, ready_s=job.began_s, device=workers.index(job.worker)) for job in history]
    done = finish_times(demands, devices=len(workers), room=replace(room, places=math.inf), paces=paces)
    return {job.id: done[job.id] - job.began_s for job in history if job.id in done}


def _doubt(pace: Pace) -> float:
    usual = Pace()
    proportion = (pace.forward_s / pace.unit_s) / (usual.forward_s / usual.unit_s)
    return _DOUBT * (abs(math.log(proportion)) + abs(math.log(pace.end_weight / usual.end_weight)))
