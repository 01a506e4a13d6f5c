"""Jobs that wait for their models to come into memory, and become rows then."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from sdapi.domain.generation import Upscale
from sdapi.pipelines.memory.leases import Leases
from sdapi.pipelines.scheduling.flights import Flight, acquired, model_of, prepared
from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.shelves import Shelves
from sdapi.pipelines.scheduling.tickets import Stopped, Ticket
from sdapi.pipelines.scheduling.troubles import trouble


class Admission:
    """For use from the device thread only."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._waiting: list[Ticket] = []
        self._leases: dict[int, Leases[Model]] = {}
        """Of waiting jobs some of whose models are there: those stay until the others have come."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, tickets: Iterable[Ticket]) -> None:
        """They wait from now on."""
        self._waiting.extend(tickets)

    def drop_cancelled(self) -> None:
        """Nobody wants these any more."""
        for ticket in [t for t in self._waiting if t.cancelled.is_set()]:
            self._drop(ticket)
            ticket.done(Stopped())

    def next(self, rows_of: Mapping[Hashable, int]) -> Flight | None:
        """A ticket whose models are there, as rows. One at a time: admitting must never stall those in flight for long.

        The first of the client that has fewest `rows_of` it in flight. One that can't be drawn is told so, and ends the search as well.
        """
        self._shelves.models.wanted = frozenset(model_id for t in self._waiting if (model_id := model_of(t.request)) is not None)
        for ticket in sorted(self._waiting, key=lambda ticket: rows_of.get(ticket.client, 0)):
            try:
                # Before its models are leased: which additions it needs depends on the words.
                if not self._put_into_english(ticket):
                    continue
                leases = self._leases.setdefault(ticket.job_id, self._shelves.leases_for(ticket))
                is_ready = acquired(ticket.request, leases)
            except Exception as error:  # noqa: BLE001 - whatever loading raises must fail this job, not the loop
                self._drop(ticket)
                ticket.done(trouble(error, [ticket.job_id], "the model could not be loaded"))
                return None
            if is_ready:
                return self._prepared(ticket)
        return None

    def close(self) -> None:
        """Those that are left end as `Stopped`. What they hold is forgotten with its shelves."""
        left, self._waiting = self._waiting, []
        for ticket in left:
            ticket.done(Stopped())

    def _prepared(self, ticket: Ticket) -> Flight | None:
        self._waiting.remove(ticket)
        leases = self._leases.pop(ticket.job_id)
        try:
            return prepared(ticket, leases)
        except Exception as error:  # noqa: BLE001 - a request that can't be prepared must not end its neighbours
            leases.release()
            ticket.done(trouble(error, [ticket.job_id], "the drawing could not be prepared"))
            return None

    def _put_into_english(self, ticket: Ticket) -> bool:
        """Whether the ticket's prompts are in English by now. Raises what translating raised."""
        if self._shelves.translations is None or isinstance(ticket.request, Upscale):
            return True
        english = self._shelves.translations.in_english(ticket.job_id, ticket.request)
        ticket.request = english or ticket.request
        return english is not None

    def _drop(self, ticket: Ticket) -> None:
        self._waiting.remove(ticket)
        if self._shelves.translations is not None:
            self._shelves.translations.forget(ticket.job_id)
        if (leases := self._leases.pop(ticket.job_id, None)) is not None:
            leases.release()
