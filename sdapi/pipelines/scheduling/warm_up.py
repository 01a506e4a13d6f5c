"""A few forwards of a model that has just come into memory, while nobody waits: its first picture then finds everything warm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakSet

from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.scheduling.caps import Batch
from sdapi.pipelines.scheduling.models import Model, SharesForwards
from sdapi.pipelines.scheduling.profile import StepProfile

_log = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 8)
_STEPS = 50
_LONGEST_FORWARD_S = 0.25
"""Who comes meanwhile waits for the forward at hand: after one of this length there are no larger ones."""
_LONGEST_S = 2.0
_TIMES = 3
"""Of each size: in the first, kernels are chosen and memory is fetched, in the second a graph is recorded."""


class WarmUp:
    """For the thread that draws."""

    def __init__(self, synchronise: Callable[[], None] = lambda: None, *, max_rows: int = _ROWS[-1]) -> None:
        """`synchronise` returns when the device has done what it was given."""
        self._synchronise = synchronise
        self._rows = [rows for rows in _ROWS if rows <= max_rows]
        self._done: WeakSet[Model] = WeakSet()
        self._at_hand: tuple[Model, Iterator[float]] | None = None

    def has_work(self, models: Sequence[Model]) -> bool:
        """Whether one of these, which are all that are in memory, has not been warmed up."""
        if self._at_hand is not None and not any(model is self._at_hand[0] for model in models):
            self._at_hand = None
        return any(model not in self._done for model in models)

    def take_step(self, models: Sequence[Model], profile: StepProfile) -> None:
        """One forward of the first that is not warm. What goes wrong is logged: a job that needs it will tell."""
        if (model := next((one for one in models if one not in self._done), None)) is None:
            self._at_hand = None
            return
        if self._at_hand is None or self._at_hand[0] is not model:
            self._at_hand = model, self._forwards(model, profile)
        try:
            took_s = next(self._at_hand[1], None)
        except Exception as error:  # noqa: BLE001 - nobody has asked for it, and the drawing goes on
            _log.warning("a model could not be warmed up", extra={"error": repr(error)})
            took_s = None
        if took_s is None:
            self._done.add(model)
            self._at_hand = None

    def _forwards(self, model: Model, profile: StepProfile) -> Iterator[float]:
        """One after another, what each took."""
        if not isinstance(model, SharesForwards):
            return
        width, height = model.native_px
        started = time.monotonic()
        request = Txt2Img(checkpoint="any", prompt="anything", width=width, height=height, seed=0, steps=_STEPS)
        (row,) = model.prepare(request, None)
        for rows in self._rows:
            took_s = 0.0
            for _ in range(_TIMES):
                began = time.perf_counter()
                # Predicting changes no row, so one stands for all of them.
                model.predict([row] * rows)
                self._synchronise()
                took_s = time.perf_counter() - began
                samples, batch = rows * row.forwards, Batch(row.key, is_joint=True)
                profile.learn(batch.shape, samples, took_s, units=samples * batch.work)
                yield took_s
                if time.monotonic() - started > _LONGEST_S:
                    return
            if took_s > _LONGEST_FORWARD_S:
                return
