"""The drawing loop in numbers: when each job of a queue would be done. Pure and deterministic.

It follows `pipelines/scheduling/turns.py` as far as that tells more: jobs of one key advance together, those with the least work left
first where a forward can't take all; keys take turns by what they have cost; and jobs that find no place wait. Decoding holds up
everything else on its device: that steps come between decodes changes little. Between two events nothing changes, so it goes from event
to event, not step by step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .estimates import Shape

_NOTHING: Final = 1e-9


@dataclass(frozen=True)
class Pace:
    """How quickly a model is drawn with."""

    forward_s: float = 0.01
    """Of every forward, however small: what sharing one saves."""
    unit_s: float = 0.1
    """Of each unit of cost in it. These defaults are the embedded model's on two CPU cores."""
    end_weight: float = 2.5
    """How much slower a unit of cost is in decoding."""

    def step_s(self, cost: float) -> float:
        """Of one forward."""
        return self.forward_s + self.unit_s * cost

    def end_s(self, cost: float) -> float:
        """Of decoding and what else comes last."""
        return self.unit_s * self.end_weight * cost

    def times(self, factor: float) -> Pace:
        """So much slower in everything."""
        return Pace(self.forward_s * factor, self.unit_s * factor, self.end_weight)


@dataclass(frozen=True)
class Paces:
    """The pace of every model drawn with of late."""

    by_model: Mapping[str, Pace] = field(default_factory=dict)

    def of(self, model: str) -> Pace:
        """Its own; without one the latest other model's, because that at least is of the same device."""
        return self.by_model.get(model) or next(reversed(list(self.by_model.values())), Pace())


@dataclass(frozen=True)
class Room:
    """What one device takes."""

    places: float
    """Pictures in flight; math.inf where that doesn't matter."""
    batch_rows: int
    """Rows of one forward, at most."""
    batch_area: float = 4.0
    """Of one forward, in units of 512 x 512; one row always fits."""

    def rows_of(self, shape: Shape) -> int:
        """How many such rows share a forward."""
        return max(1, min(self.batch_rows, int(self.batch_area / shape.area))) if shape.shares else 1


@dataclass(frozen=True)
class Demand:
    """One job that wants to be drawn."""

    id: int
    shape: Shape
    at_s: float = 0.0
    """When it comes. Before zero is in the past."""
    left: float = 1.0
    """How much of its steps is still to be taken."""
    ready_s: float = -math.inf
    """When its model is in memory."""
    device: int | None = None
    """Where it is drawn already; None: wherever there is a place first."""


@dataclass
class _Flight:
    demand: Demand
    row_steps: float
    pace: Pace

    @property
    def rows(self) -> int:
        return self.demand.shape.rows

    @property
    def work_left(self) -> float:
        return self.row_steps * self.demand.shape.step_cost


@dataclass
class _Device:
    room: Room
    flights: list[_Flight] = field(default_factory=list)
    ending: deque[_Flight] = field(default_factory=deque)
    """Steps taken, not decoded yet; the first is being decoded until `ending_until`."""
    ending_until: float = math.inf

    @property
    def free(self) -> float:
        return self.room.places - sum(flight.rows for flight in (*self.flights, *self.ending))

    def rates(self, now: float) -> list[tuple[_Flight, float]]:
        """Row-steps a second of each flight that advances now."""
        if self.ending:
            return []
        batches: dict[str, list[tuple[_Flight, int]]] = {}
        taken: dict[str, int] = {}
        for flight in sorted(self.flights, key=lambda one: one.work_left):
            shape = flight.demand.shape
            if flight.demand.ready_s > now + _NOTHING:
                continue
            rows = min(flight.rows, self.room.rows_of(shape) - taken.get(shape.key, 0))
            if rows > 0:
                batches.setdefault(shape.key, []).append((flight, rows))
                taken[shape.key] = taken.get(shape.key, 0) + rows
        costs = {key: sum(rows * flight.demand.shape.step_cost for flight, rows in batch) for key, batch in batches.items()}
        # Keys get equal shares of cost, so a second holds as many units of each as this.
        units = 1 / sum(batch[0][0].pace.step_s(costs[key]) / costs[key] for key, batch in batches.items()) if batches else 0.0
        return [(flight, rows * units / costs[key]) for key, batch in batches.items() for flight, rows in batch]

    def next_ready(self, now: float) -> float:
        """When the next model is in memory."""
        return min((f.demand.ready_s for f in self.flights if f.demand.ready_s > now + _NOTHING), default=math.inf)

    def to_ending(self, now: float) -> None:
        """Let those that have taken all their steps begin to end, one after another."""
        for flight in [f for f in self.flights if f.row_steps <= _NOTHING and f.demand.ready_s <= now + _NOTHING]:
            self.flights.remove(flight)
            self.ending.append(flight)
            if len(self.ending) == 1:
                self.ending_until = now + _end_s(flight)

    def ended(self, now: float) -> list[_Flight]:
        """Those whose picture is there now."""
        done: list[_Flight] = []
        while self.ending and self.ending_until <= now + _NOTHING:
            done.append(self.ending.popleft())
            self.ending_until = self.ending_until + _end_s(self.ending[0]) if self.ending else math.inf
        return done


def finish_times(
    demands: Sequence[Demand], *, devices: int, room: Room, paces: Paces, until_done: Collection[int] | None = None
) -> dict[int, float]:
    """When each demand is done, in seconds from zero. Those that come at the same moment are taken in the order given.

    With `until_done`, it ends when these are done; others may be missing then.
    """
    coming = deque(sorted(demands, key=lambda demand: demand.at_s))
    machines = [_Device(room) for _ in range(max(1, devices))]
    waiting: deque[Demand] = deque()
    finished: dict[int, float] = {}
    wanted = {demand.id for demand in demands} if until_done is None else set(until_done)
    now = coming[0].at_s if coming else 0.0
    while wanted and (coming or waiting or any(machine.flights or machine.ending for machine in machines)):
        while coming and coming[0].at_s <= now + _NOTHING:
            demand = coming.popleft()
            if demand.device is None:
                waiting.append(demand)
            else:
                machines[demand.device].flights.append(_flight(demand, paces))
        _place(waiting, machines, paces)
        for machine in machines:
            machine.to_ending(now)
        rates = [pair for machine in machines for pair in machine.rates(now)]
        soonest = min(
            [
                *((flight.row_steps / rate for flight, rate in rates)),
                *(machine.ending_until - now for machine in machines),
                *(machine.next_ready(now) - now for machine in machines),
                coming[0].at_s - now if coming else math.inf,
            ]
        )
        if math.isinf(soonest):
            break
        now += soonest
        for flight, rate in rates:
            flight.row_steps -= soonest * rate
        for machine in machines:
            for flight in machine.ended(now):
                finished[flight.demand.id] = now
                wanted.discard(flight.demand.id)
    return finished


def _place(waiting: deque[Demand], machines: Sequence[_Device], paces: Paces) -> None:
    """Hand the jobs at the head of the queue to the devices, the emptiest first."""
    while waiting:
        machine = max(machines, key=lambda one: one.free)
        if machine.free <= 0:
            return
        machine.flights.append(_flight(waiting.popleft(), paces))


def _flight(demand: Demand, paces: Paces) -> _Flight:
    return _Flight(demand, demand.shape.rows * demand.shape.steps * demand.left, paces.of(demand.shape.model))


def _end_s(flight: _Flight) -> float:
    return flight.pace.end_s(flight.rows * flight.demand.shape.end_cost)
