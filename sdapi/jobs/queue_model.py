"""The drawing loop in numbers: when each job of a queue would be done. Pure and deterministic.

It follows `pipelines/scheduling/turns.py` as far as that tells more: jobs of one key advance together, those with the least work left
first where a forward can't take all; clients share the time, those with many rows having less of it, and of a client's time its keys
have equal parts; and jobs that find no place wait. What forwards take is what the device was measured to take, as far as it was.
Decoding holds up everything else on its device: that steps come between decodes changes little. Between two events nothing changes, so
it goes from event to event, not step by step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sdapi.domain.drawing_speeds import DrawingSpeeds, Measured

from .estimates import Shape

_NOTHING: Final = 1e-9
_USUALLY_SLOWER: Final = 1.2
"""Between forwards samplers are run, jobs are admitted and pictures written, by the same cores."""
_MOST_CHARGED: Final = 3
"""As in `turns`: so many rows of a client count."""


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
    """How quickly everything is drawn, as far as it is known."""

    by_model: Mapping[str, Pace] = field(default_factory=dict)
    """Of every model drawn with of late that no device was measured with."""
    speeds: DrawingSpeeds = field(default_factory=DrawingSpeeds)
    """What this process's own device was measured to take."""
    fitted: Mapping[str, Pace] = field(default_factory=dict)
    """The same as a pace for each of its models, for sizes that weren't measured; see `fit`."""
    slower: Mapping[str, float] = field(default_factory=dict)
    """How many times as long as its forwards alone the drawing with each of these models takes."""

    def of(self, model: str) -> Pace:
        """Its own; without one the latest other model's, because that at least is of the same device."""
        if (fitted := self.fitted.get(model)) is not None:
            return fitted.times(self.slower_by(model))
        return self.by_model.get(model) or next(reversed(list(self.by_model.values())), Pace())

    def slower_by(self, model: str) -> float:
        """`slower`, or what is usual."""
        return self.slower.get(model, _USUALLY_SLOWER)

    def measured(self, shape: Shape) -> Measured | None:
        """What its steps were measured to take; None where they weren't."""
        return next((found for sort in shape.steps_as if (found := self.speeds.by_sort.get(sort)) is not None), None)


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
    client: int = 0
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
    measured: Measured | None
    slower: float
    """Than measured."""
    end_s: float
    """What comes after its steps, of all its rows."""

    @property
    def rows(self) -> int:
        return self.demand.shape.rows

    @property
    def work_left(self) -> float:
        return self.row_steps * self.demand.shape.step_cost

    def shared_rows(self, room: Room) -> int:
        """How many rows like its own share a forward."""
        shape = self.demand.shape
        if self.measured is None or not shape.shares:
            return room.rows_of(shape)
        worth = self.measured.worth
        return room.batch_rows if worth is None else max(1, min(room.batch_rows, worth // shape.row_samples))


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
        seated: dict[str, list[tuple[_Flight, int]]] = {}
        taken: dict[str, int] = {}
        for flight in sorted(self.flights, key=lambda one: one.work_left):
            if flight.demand.ready_s > now + _NOTHING:
                continue
            key = flight.demand.shape.key
            rows = min(flight.rows, flight.shared_rows(self.room) - taken.get(key, 0))
            if rows > 0:
                seated.setdefault(key, []).append((flight, rows))
                taken[key] = taken.get(key, 0) + rows
        shares = _shares_of_time(seated)
        turns = {key: shares[key] / _step_s(seats) for key, seats in seated.items()}
        return [(flight, rows * turns[key]) for key, seats in seated.items() for flight, rows in seats]

    def next_ready(self, now: float) -> float:
        """When the next model is in memory."""
        return min((f.demand.ready_s for f in self.flights if f.demand.ready_s > now + _NOTHING), default=math.inf)

    def to_ending(self, now: float) -> None:
        """Let those that have taken all their steps begin to end, one after another."""
        for flight in [f for f in self.flights if f.row_steps <= _NOTHING and f.demand.ready_s <= now + _NOTHING]:
            self.flights.remove(flight)
            self.ending.append(flight)
            if len(self.ending) == 1:
                self.ending_until = now + flight.end_s

    def ended(self, now: float) -> list[_Flight]:
        """Those whose picture is there now."""
        done: list[_Flight] = []
        while self.ending and self.ending_until <= now + _NOTHING:
            done.append(self.ending.popleft())
            self.ending_until = self.ending_until + self.ending[0].end_s if self.ending else math.inf
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
    shape = demand.shape
    pace, measured, slower = paces.of(shape.model), paces.measured(shape), paces.slower_by(shape.model)
    decoding = None if shape.ends_as is None else paces.speeds.by_sort.get(shape.ends_as)
    end_s = shape.rows * (pace.end_s(shape.end_cost) if decoding is None else decoding.of(1) * slower)
    return _Flight(demand, shape.rows * shape.steps * demand.left, pace, measured, slower, end_s)


def _shares_of_time(seated: Mapping[str, Sequence[tuple[_Flight, int]]]) -> dict[str, float]:
    """What part of the time each key has; those of other clients who share its forwards come along."""
    keys: dict[int, set[str]] = {}
    rows: dict[int, int] = {}
    for key, seats in seated.items():
        for flight, count in seats:
            keys.setdefault(flight.demand.client, set()).add(key)
            rows[flight.demand.client] = rows.get(flight.demand.client, 0) + count
    weights = {client: 1 / min(_MOST_CHARGED, count) for client, count in rows.items()}
    total = sum(weights.values())
    shares = dict.fromkeys(seated, 0.0)
    for client, own in keys.items():
        for key in own:
            shares[key] += weights[client] / total / len(own)
    return shares


def _step_s(seats: Sequence[tuple[_Flight, int]]) -> float:
    """Of one forward with these rows in it, or of several where their samplers take several."""
    flight, rows = seats[0][0], sum(rows for _, rows in seats)
    cost = sum(rows * one.demand.shape.step_cost for one, rows in seats)
    if flight.measured is None:
        return flight.pace.step_s(cost)
    samples = sum(rows * one.demand.shape.row_samples for one, rows in seats)
    forwards = sum(rows * one.demand.shape.forwards for one, rows in seats) / rows
    known = min(samples, flight.measured.largest)
    # What more than were ever measured would take, in the proportion that is usual for the model.
    growth = flight.pace.step_s(cost) / flight.pace.step_s(cost * known / samples)
    return flight.measured.of(known) * growth * forwards * flight.slower
