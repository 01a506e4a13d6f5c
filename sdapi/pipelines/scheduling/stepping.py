"""One step of rows that share a forward: predicted together, sampled together, and failing alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sdapi.pipelines.memory.shortage import is_out_of_memory
from sdapi.pipelines.scheduling.aloft import Aloft
from sdapi.pipelines.scheduling.caps import Batch, Caps
from sdapi.pipelines.scheduling.flights import Flight
from sdapi.pipelines.scheduling.in_flight import InFlight
from sdapi.pipelines.scheduling.models import advance_each
from sdapi.pipelines.scheduling.stopwatch import Stopwatch
from sdapi.pipelines.scheduling.troubles import trouble

_log = logging.getLogger(__name__)


class Stepping:
    """For use from the device thread only."""

    def __init__(self, aloft: Aloft, caps: Caps, stopwatch: Stopwatch, *, release: Callable[[], None], clear: Callable[[], object]) -> None:
        """`caps` learns what each forward takes, and which ones run out of memory.

        `release` gives back to the device what is kept for later use, `clear` also what nobody uses at the moment.
        """
        self._aloft = aloft
        self._caps = caps
        self._stopwatch = stopwatch
        self._release = release
        self._clear = clear

    def step(self, active: list[tuple[Flight, InFlight]], batch: Batch) -> None:
        """One denoising step of these rows, together."""
        self._advance(active, self._aloft.looks.looked_at(active), batch)
        for flight in {id(f): f for f, _ in active}.values():
            if flight in self._aloft:
                flight.ticket.report(flight.progress)

    def _advance(
        self, active: list[tuple[Flight, InFlight]], looked_at: InFlight | None, batch: Batch, *, is_last_try: bool = False
    ) -> None:
        """Predict together, step together. A forward that fails is tried again in halves, so that only the culprit's job fails.

        One that ran out of memory is tried again with more of it, and so is a row that did so alone.
        """
        if len(active) > 1 and not self._caps.has_room(batch, _samples(active)):
            self._advance_in_halves(active, looked_at, batch)
            return
        predictions, ran_out = None, False
        try:
            predictions = self._predict(active, batch)
        except Exception as error:  # noqa: BLE001 - out of memory and kernel errors must not end neighbours
            ran_out = is_out_of_memory(error)
            flight = active[0][0]
            if len(active) == 1 and (is_last_try or not ran_out):
                self._aloft.land(flight, trouble(error, [flight.ticket.job_id], "the drawing failed"))
                return
            _log.warning("a joint forward failed, trying in halves", extra={"rows": len(active), "error": repr(error)})
        # Not where the error is still known: it keeps the tensors of the forward that failed.
        if predictions is not None:
            self._take(active, predictions, looked_at)
        elif len(active) == 1:
            self._clear()
            self._advance(active, looked_at, batch, is_last_try=True)
        else:
            if ran_out:
                self._caps.ran_out(batch, _samples(active))
                self._release()
            self._advance_in_halves(active, looked_at, batch)

    def _advance_in_halves(self, active: list[tuple[Flight, InFlight]], looked_at: InFlight | None, batch: Batch) -> None:
        middle = len(active) // 2
        self._advance(active[:middle], looked_at, batch)
        if rest := [(flight, row) for flight, row in active[middle:] if flight in self._aloft]:
            self._advance(rest, looked_at, batch)

    def _take(self, active: list[tuple[Flight, InFlight]], predictions: list[Any], looked_at: InFlight | None) -> None:
        for (flight, row), predicted in zip(active, predictions, strict=True):
            if row is looked_at:
                self._aloft.looks.show(flight, row, predicted)
        troubles = advance_each(active[0][0].model_of(active[0][1]), [row for _, row in active], predictions)
        for (flight, _), failure in zip(active, troubles, strict=True):
            if failure is not None and flight in self._aloft:
                self._aloft.land(flight, trouble(failure, [flight.ticket.job_id], "the sampler failed"))

    def _predict(self, active: list[tuple[Flight, InFlight]], batch: Batch) -> list[Any]:
        model, rows, samples = active[0][0].model_of(active[0][1]), [row for _, row in active], _samples(active)
        predictions: list[Any] = self._stopwatch.timed(
            lambda: model.predict(rows), lambda seconds: self._caps.learn(batch, samples, seconds)
        )
        self._caps.fitted(batch, samples)
        return predictions


def _samples(active: list[tuple[Flight, InFlight]]) -> int:
    return sum(row.forwards for _, row in active)
