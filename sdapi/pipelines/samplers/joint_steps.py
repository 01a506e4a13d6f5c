"""One denoising step of all rows of a batch: those on plans together, others with their own scheduler objects one by one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from sdapi.pipelines.guidance.highres import enter_next_phase
from sdapi.pipelines.samplers.planned_samplers import Move, PlannedSampler, advanced_together
from sdapi.pipelines.scheduling.row import Row

_log = logging.getLogger(__name__)


def advance_rows(rows: Sequence[Row], predictions: Sequence[Tensor]) -> list[Exception | None]:
    """A step of each row by what was predicted for it: what kept it from it, in the rows' order, None where it was taken."""
    alone: list[int] = []
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        # Panoramas of different sizes share forwards, window by window.
        (groups.setdefault(tuple(row.latents.shape), []) if isinstance(row.sampler, PlannedSampler) else alone).append(number)
    troubles: dict[int, Exception] = {}
    for numbers in groups.values():
        try:
            _step_together([rows[number] for number in numbers], [predictions[number] for number in numbers])
        except Exception as error:  # noqa: BLE001 - out of memory and kernel errors; no row has changed
            _log.warning("a joint step failed, trying row by row", extra={"rows": len(numbers), "error": repr(error)})
            alone += numbers
    for number in alone:
        row = rows[number]
        try:
            row.latents = row.sampler.advance(predictions[number], row.latents, row.generator)
        except Exception as error:  # noqa: BLE001 - one row's sampler must not end its neighbours
            troubles[number] = error
    for number, row in enumerate(rows):
        if number not in troubles:
            try:
                _settle(row)
            except Exception as error:  # noqa: BLE001 - nor what follows it
                troubles[number] = error
    return [troubles.get(number) for number in range(len(rows))]


def _step_together(rows: Sequence[Row], predictions: Sequence[Tensor]) -> None:
    moves = [
        Move(row.sampler, predicted, row.latents, row.generator)
        for row, predicted in zip(rows, predictions, strict=True)
        if isinstance(row.sampler, PlannedSampler)
    ]
    for row, latents in zip(rows, advanced_together(moves), strict=True):
        row.latents = latents


def _settle(row: Row) -> None:
    """What a row does after a step: keep its picture where that is not drawn anew, go on to its next phase."""
    if row.blend is not None:
        row.latents = row.blend.blended(row.latents, row.sampler)
    if row.next_phase is not None and row.sampler.finished:
        enter_next_phase(row)
