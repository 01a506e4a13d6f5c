"""Rows that have taken their steps become pictures, and jobs that have all of theirs end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from PIL import Image

from sdapi.pipelines.scheduling.aloft import Aloft
from sdapi.pipelines.scheduling.caps import Caps
from sdapi.pipelines.scheduling.decoding import DecodingStage, InlineDecoding
from sdapi.pipelines.scheduling.flights import Ending, decoded_together
from sdapi.pipelines.scheduling.tickets import Pictures
from sdapi.pipelines.scheduling.troubles import trouble
from sdapi.pipelines.scheduling.wishes import ending_batch


class Retiring:
    """For use from the device thread only, but for `has_ended_any`."""

    def __init__(self, aloft: Aloft, caps: Caps, beside: DecodingStage[Ending] | None, *, release: Callable[[], None]) -> None:
        """`caps` learns what decodes take. `beside` decodes while steps are taken; None: decodes and steps take turns.

        `release` gives back to the device what is kept for later use.
        """
        self._aloft = aloft
        self._caps = caps
        self._between: DecodingStage[Ending] = InlineDecoding(release)
        self._beside = beside

    @property
    def is_beside(self) -> bool:
        """Whether rows that can be decoded together need no turn for it."""
        return self._beside is not None

    @property
    def has_ended_any(self) -> bool:
        """Whether there is something for `retire`."""
        return self._beside is not None and self._beside.has_ended_any

    def decode(self, endings: Sequence[Ending]) -> None:
        """Make these into pictures here and now."""
        self._between.begin(endings, decoded_together)

    def begin_beside(self) -> None:
        """Give the stage beside as many as it takes at once of those that have waited longest; while it is busy, more come together."""
        if (stage := self._beside) is None or stage.is_busy:
            return
        waiting = [(ending, company) for flight in self._aloft for ending in flight.endings if (company := ending.company) is not None]
        if waiting:
            batch = ending_batch(waiting[0][0], waiting[0][1])
            together = [ending for ending, company in waiting if company == batch.ending]
            most = self._caps.most(batch, samples_each=1)
            taken = together[: max(1, min(most.rows, most.samples))]
            for ending in taken:
                ending.flight.away.add(ending.index)
            stage.begin(taken, decoded_together)

    def retire(self) -> None:
        """Take in what has been decoded; jobs all of whose pictures are there end."""
        for stage in (self._between, *([] if self._beside is None else [self._beside])):
            for sheet in stage.take():
                first = sheet.results[0][0]
                batch = ending_batch(first, first.company)
                if sheet.ran_out_of_memory:
                    self._caps.ran_out(batch, len(sheet.results))
                elif sheet.seconds is not None:
                    self._caps.fitted(batch, len(sheet.results))
                    self._caps.learn(batch, len(sheet.results), sheet.seconds)
                for ending, result in sheet.results:
                    if ending.flight in self._aloft:
                        self._take_in(ending, result)

    def _take_in(self, ending: Ending, result: Image.Image | Exception) -> None:
        flight = ending.flight
        try:
            if isinstance(result, Exception):
                raise result
            flight.take(ending, result)
        except Exception as error:  # noqa: BLE001 - a picture that can't be made fails its own job only
            self._aloft.land(flight, trouble(error, [flight.ticket.job_id], "the picture could not be decoded"))
            return
        if ending.index == 0 and flight.images:
            self._aloft.looks.answer(flight, flight.images[0])
        if (images := flight.results) is not None:
            seconds = time.monotonic() - flight.started
            self._aloft.land(flight, Pictures(images, seconds, flight.parts[0].sampler.name, flight.ticket.request, flight.film))

    def close(self) -> None:
        """End when what is being decoded is done."""
        if self._beside is not None:
            self._beside.close()
