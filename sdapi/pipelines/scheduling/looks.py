"""Who looks at what is in flight, and what they are shown."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from PIL import Image

from sdapi.pipelines.scheduling.flights import Flight
from sdapi.pipelines.scheduling.in_flight import InFlight
from sdapi.pipelines.scheduling.tickets import Look

_log = logging.getLogger(__name__)


class Looks:
    """For use from the device thread only."""

    def __init__(self) -> None:
        self._of: dict[int, list[Look]] = {}
        """By job; answered at its next step."""

    def note(self, looks: Iterable[tuple[int, Look]], flights: Iterable[Flight]) -> None:
        """They want to see these jobs. A picture that is done is shown at once, and so is None for a job that isn't in flight."""
        in_flight = {flight.ticket.job_id: flight for flight in flights}
        for job_id, look in looks:
            if (flight := in_flight.get(job_id)) is None:
                look(None)
            elif 0 in flight.images:
                look(flight.images[0])
            else:
                self._of.setdefault(job_id, []).append(look)

    def looked_at(self, active: Iterable[tuple[Flight, InFlight]]) -> InFlight | None:
        """The first of these rows that somebody looks at. One a step, so that lookers never stall the drawing for long."""
        return next((row for flight, row in active if flight.ticket.job_id in self._of and row is flight.parts[0]), None)

    def show(self, flight: Flight, row: InFlight, predicted: Any) -> None:
        """Answer from the step at hand. Nothing that goes wrong here may reach the drawing."""
        try:
            image = flight.model_of(row).preview(row, predicted)
        except Exception as error:  # noqa: BLE001 - out of memory and kernel errors cost the look only
            _log.warning("a preview failed", extra={"job_ids": [flight.ticket.job_id], "error": repr(error)})
            image = None
        self.answer(flight, image)

    def answer(self, flight: Flight, image: Image.Image | None) -> None:
        """Show this to whoever looks at the job."""
        for look in self._of.pop(flight.ticket.job_id, ()):
            look(image)
