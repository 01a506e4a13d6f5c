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
_WEIGHT: Final = 0.15
"""Of the latest jobs: that some took longer is seldom the machine, and soon past."""
_LEAST_SLOWER: Final = 0.8
_MOST_SLOWER: Final = 5.0


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
    client: int = 0


def learned(paces: Paces, history: Sequence[DrawnJob], room: Room, *, complete_since_s: float = -math.inf) -> Paces:
    """The paces that explain the history best, beginning at `paces`; the latest drawn model last.

    Of models their device was measured with, all there is to learn is how much longer the drawing takes than its forwards.

    Jobs that began before `complete_since_s` may have had company the history does not tell of; they are not reckoned with.
    """
    told = [job for job in history if job.seconds is not None and job.seconds > 0 and job.began_s >= complete_since_s]
    result, slower = dict(paces.by_model), dict(paces.slower)
    for model in _latest_last(told):
        if model in paces.fitted:
            mine = [job for job in told if job.shape.model == model]
            slower[model] = _slower(paces, model, history, mine, room)
            continue
        rounds = 1 if model in result else _FIRST_ROUNDS
        pace = replace(paces, by_model=result).of(model)
        result.pop(model, None)
        known = replace(paces, by_model=result)
        if sum(job.shape.model == model for job in told) == 1:
            pace = _hint(pace, model, known, history, told, room)
        else:
            for _ in range(rounds):
                pace = _better(pace, model, known, history, told, room)
        result[model] = pace
    return replace(paces, by_model=result, slower=slower)


def _latest_last(told: Iterable[DrawnJob]) -> list[str]:
    ends = sorted((job.began_s + (job.seconds or 0), job.shape.model) for job in told)
    return list(dict.fromkeys(model for _, model in reversed(ends)))[::-1]


def _hint(pace: Pace, model: str, others: Paces, history: Sequence[DrawnJob], told: Sequence[DrawnJob], room: Room) -> Pace:
    """What a single job says: that it was quick proves that the device is; that it was slow may be because it was the first."""
    mine = [job for job in told if job.shape.model == model]
    factor, _ = _correction(pace, model, others, history, mine, room)
    return pace.times(math.sqrt(factor) if factor > 1 else factor)


def _better(pace: Pace, model: str, others: Paces, history: Sequence[DrawnJob], told: Sequence[DrawnJob], room: Room) -> Pace:
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
    pace: Pace, model: str, others: Paces, history: Sequence[DrawnJob], mine: Sequence[DrawnJob], room: Room
) -> tuple[float, float]:
    """How much slower the jobs really were than replayed, and how unevenly."""
    return _difference(replace(others, by_model={**others.by_model, model: pace}), history, mine, room)


def _slower(paces: Paces, model: str, history: Sequence[DrawnJob], mine: Sequence[DrawnJob], room: Room) -> float:
    """How much longer than measured everything takes with a model: what was believed, moved a little towards what its jobs show."""
    factor, _ = _difference(paces, history, mine, room)
    moved = paces.slower_by(model) * math.exp(_WEIGHT * math.log(factor))
    return min(_MOST_SLOWER, max(_LEAST_SLOWER, moved))


def _difference(paces: Paces, history: Sequence[DrawnJob], mine: Sequence[DrawnJob], room: Room) -> tuple[float, float]:
    """How much slower these jobs really were than replayed, and how unevenly."""
    replayed = _replay(paces, history, room)
    ratios = [math.log(job.seconds / replayed[job.id]) for job in mine if job.seconds is not None and replayed.get(job.id, 0) > 0]
    if not ratios:
        return 1.0, 0.0
    middle = statistics.median(ratios)
    factor = min(_MAX_FACTOR, max(1 / _MAX_FACTOR, math.exp(middle)))
    return factor, statistics.fmean(abs(ratio - middle) for ratio in ratios)


def _replay(paces: Paces, history: Sequence[DrawnJob], room: Room) -> dict[int, float]:
    """How long each job of the history would have been drawn at these paces."""
    workers = list(dict.fromkeys(job.worker for job in history))
    demands = [
        Demand(job.id, job.shape, job.client, at_s=job.began_s, ready_s=job.began_s, device=workers.index(job.worker)) for job in history
    ]
    done = finish_times(demands, devices=len(workers), room=replace(room, places=math.inf), paces=paces)
    return {job.id: done[job.id] - job.began_s for job in history if job.id in done}


def _doubt(pace: Pace) -> float:
    usual = Pace()
    proportion = (pace.forward_s / pace.unit_s) / (usual.forward_s / usual.unit_s)
    return _DOUBT * (abs(math.log(proportion)) + abs(math.log(pace.end_weight / usual.end_weight)))
