"""What the drawing loop says of a job, in the engine's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdapi.domain.generation import AnyRequest, SchedulerName

from .base import Cancelled, Drawn, Failed, Outcome

if TYPE_CHECKING:
    from sdapi.pipelines.scheduling.tickets import Result


def outcome_of(result: Result, asked: AnyRequest) -> Outcome:
    """`asked` is the request the job came with."""
    from sdapi.pipelines.scheduling.tickets import Pictures, Trouble

    match result:
        case Pictures(images, seconds, scheduler, drawn, film):
            named = SchedulerName(scheduler) if scheduler in set(SchedulerName) else None
            said = None if drawn is asked else drawn
            return Drawn(images if film is None else film.samples, seconds, named, said, film=film)
        case Trouble(reason):
            return Failed(reason)
        case _:
            return Cancelled()
