"""The jobs in flight, and how they land."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from sdapi.pipelines.scheduling.flights import Flight
from sdapi.pipelines.scheduling.looks import Looks
from sdapi.pipelines.scheduling.tickets import Result, Stopped


class Aloft:
    """In the order in which they came. For use from the device thread only."""

    def __init__(self) -> None:
        self._flights: list[Flight] = []
        self.looks = Looks()

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights)

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, flight: Flight) -> bool:
        return any(one is flight for one in self._flights)

    @property
    def rows_by_client(self) -> Counter[Hashable]:
        """How many each has in flight."""
        found: Counter[Hashable] = Counter()
        for flight in self._flights:
            found[flight.ticket.client] += len(flight.parts)
        return found

    def add(self, flight: Flight) -> None:
        """One more."""
        self._flights.append(flight)

    def land(self, flight: Flight, result: Result) -> None:
        """This has come of the job; let go of everything it held."""
        self._flights = [one for one in self._flights if one is not flight]
        for row in flight.parts:
            row.close()
        self.looks.answer(flight, None)
        flight.leases.release()
        flight.ticket.done(result)

    def land_cancelled(self) -> None:
        """Nobody wants these any more."""
        for flight in [one for one in self._flights if one.ticket.cancelled.is_set()]:
            self.land(flight, Stopped())

    def land_all(self) -> None:
        """Give all of them up."""
        for flight in list(self._flights):
            self.land(flight, Stopped())
