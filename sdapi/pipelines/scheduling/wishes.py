"""What all jobs in flight want of the device, as `turns` reckons with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from sdapi.pipelines.scheduling.caps import Batch
from sdapi.pipelines.scheduling.flights import Ending, Flight
from sdapi.pipelines.scheduling.in_flight import InFlight
from sdapi.pipelines.scheduling.turns import Turn, Wish


@dataclass(frozen=True)
class Wishes:
    """Of one moment."""

    all: tuple[Wish[Batch], ...]
    """In the order in which their jobs came."""
    _steps: dict[int, tuple[Flight, InFlight]]
    _endings: dict[int, Ending]

    @classmethod
    def of(cls, flights: Iterable[Flight], *, decodes_beside: bool) -> Wishes:
        """Steps and decodes; with `decodes_beside`, only such decodes as need the drawing thread."""
        found: list[Wish[Batch]] = []
        steps: dict[int, tuple[Flight, InFlight]] = {}
        endings: dict[int, Ending] = {}
        for flight in flights:
            client, left = flight.ticket.client, flight.work_left
            for row in flight.active:
                steps[id(row)] = flight, row
                batch = Batch(row.key, is_joint=flight.is_joint(row))
                found.append(Wish(id(row), client, batch, row.forwards, left))
            for ending in flight.endings:
                company = ending.company
                if decodes_beside and company is not None:
                    continue
                endings[id(ending.row)] = ending
                found.append(Wish(id(ending.row), client, ending_batch(ending, company), 1, left, is_last=True))
        return cls(tuple(found), steps, endings)

    def steps_of(self, turn: Turn[Batch]) -> list[tuple[Flight, InFlight]]:
        """The rows of a turn that is a step."""
        return [self._steps[wish.row] for wish in turn.wishes]

    def endings_of(self, turn: Turn[Batch]) -> list[Ending]:
        """The rows of a turn in which they are decoded."""
        return [self._endings[wish.row] for wish in turn.wishes]


def ending_batch(ending: Ending, company: Hashable | None) -> Batch:
    """What is decoded at once with this row, given its `company`."""
    return Batch(ending.row.key, is_joint=company is not None, ending=("alone", id(ending.row)) if company is None else company)
