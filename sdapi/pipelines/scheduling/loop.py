"""The drawing loop: admit, take a turn, retire. Pictures of different users share forwards and join at the next step.

Knows nothing of torch or models: a `Model` prepares rows, predicts for a batch, advances rows and decodes them. One thread runs `run`;
any thread may `submit`. A cycle admits a job - several where that takes next to no time - and takes one turn: a step of rows that
share a forward, or a decode (see `turns`). So nobody waits for company, and those in flight wait for about one admission and one decode
between two steps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from PIL import Image

from sdapi.domain.drawing_speeds import DrawingSpeeds
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.memory.budget import WORTH_RELEASING_BYTES
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.safety.safety_stage import Question, SafetyStage, Unchecked, Verdict
from sdapi.pipelines.scheduling.admission import Admission
from sdapi.pipelines.scheduling.aloft import Aloft
from sdapi.pipelines.scheduling.caps import Batch, Caps
from sdapi.pipelines.scheduling.decoding import DecodingStage
from sdapi.pipelines.scheduling.flights import Ending
from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.retiring import Retiring
from sdapi.pipelines.scheduling.shelves import Shelves
from sdapi.pipelines.scheduling.stepping import Stepping
from sdapi.pipelines.scheduling.tickets import Look, Ticket
from sdapi.pipelines.scheduling.turns import Turns
from sdapi.pipelines.scheduling.wishes import Wishes
from sdapi.pipelines.upscalers.face_shelf import FaceShelf
from sdapi.pipelines.upscalers.kinds import Upscaler
from sdapi.pipelines.words.translations import Translations

_log = logging.getLogger(__name__)

_ADMITS_WITHIN_S = 0.003
"""No further job is admitted in a cycle once this has passed: those in flight wait for it."""
_LOOK_AGAIN_S = 0.05
"""How long a thread that waits for a load or a decode may take to notice that a job was cancelled."""


class DrawingLoop:
    """Continuous batching, step by step."""

    def __init__(
        self,
        residency: Residency[Model],
        *,
        max_batch_pixels: int,
        max_batch_rows: int,
        control_nets: Residency[ControlNetwork] | None = None,
        upscalers: Residency[Upscaler] | None = None,
        safety: SafetyStage | None = None,
        faces: FaceShelf | None = None,
        translations: Translations | None = None,
        release_memory: Callable[[], None] = lambda: None,
        close_device: Callable[[], None] = lambda: None,
        pacing: Pacing | None = None,
        decoding_beside: Callable[[Callable[[], None]], DecodingStage[Ending]] | None = None,
    ) -> None:
        """A forward takes at most `max_batch_rows` rows, and about `max_batch_pixels` of picture until `pacing` knows better.

        `control_nets`, `upscalers` and `translations` share the models' memory; None where no request names any.

        `release_memory` gives back to the device what was kept for later use, and what models that left still hold; called on the
        loop's thread. `close_device` ends what is done for the device beside the loop, when the loop has ended; called there, too.
        `decoding_beside` makes the stage that decodes while steps are taken, given what wakes the loop; None: they take turns.
        """
        self._shelves = Shelves.of(residency, control_nets, upscalers, faces, translations)
        self._safety = safety if safety is not None else SafetyStage.empty(residency.memory)
        self._max_batch_pixels = max_batch_pixels
        self._release_memory = release_memory
        self._close_device = close_device
        self._inbox: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._ended = False
        self._admission = Admission(self._shelves)
        self._aloft = Aloft()
        self._asked_looks: deque[tuple[int, Look]] = deque()
        self._asked_clearings: deque[Callable[[int], None]] = deque()
        self._pacing = pacing if pacing is not None else Pacing()
        self._caps = Caps(self._pacing.profile, max_pixels=max_batch_pixels, max_rows=max_batch_rows)
        self._turns: Turns[Batch] = Turns()
        self._stepping = Stepping(self._aloft, self._caps, self._pacing.stopwatch, release=release_memory, clear=self._clear)
        beside = None if decoding_beside is None else decoding_beside(self._nudge)
        self._retiring = Retiring(self._aloft, self._caps, beside, release=release_memory)

    @property
    def models(self) -> ModelsInMemory:
        """What is in memory and what is on its way; any thread may look. Upscalers are told by `upscaler_entry`."""
        return self._shelves.state

    @property
    def max_batch_pixels(self) -> int:
        """About how much of picture one forward takes."""
        return self._max_batch_pixels

    @property
    def speeds(self) -> DrawingSpeeds:
        """What the device was measured to take; any thread may look."""
        return self._pacing.speeds

    def submit(self, ticket: Ticket) -> None:
        """Hand a job in; from any thread."""
        with self._wake:
            self._inbox.append(ticket)
            self._wake.notify()

    def preview(self, job_id: int, look: Look) -> None:
        """Show what a job is becoming, at its next step; None at once when it isn't being drawn. From any thread."""
        with self._wake:
            if not self._ended:
                self._asked_looks.append((job_id, look))
                self._wake.notify()
                return
        look(None)

    def clear_caches(self, done: Callable[[int], None]) -> None:
        """Between two steps, forget models nobody uses and encoded prompts; `done` is told how many bytes they took. From any thread."""
        with self._wake:
            if not self._ended:
                self._asked_clearings.append(done)
                self._wake.notify()
                return
        done(0)

    def check(self, images: tuple[Image.Image, ...], done: Callable[[Verdict], None]) -> None:
        """Have finished pictures looked at beside the drawing; `done` is told which are unsafe. From any thread."""
        with self._wake:
            if not self._ended:
                self._safety.ask(Question(images, done))
                self._wake.notify()
                return
        done(Unchecked("The server stopped before the pictures were checked."))

    def stop(self) -> None:
        """Ask the loop to end after the step it is at; what is in flight ends as `Stopped`. From any thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def run(self) -> None:
        """Draw until `stop`."""
        memory = self._shelves.memory
        try:
            while True:
                with self._wake:
                    while not (self._is_called or self._is_waiting or self._aloft or self._pacing.can_warm_up(self._shelves.models.models)):
                        if (expires_in_s := memory.expires_in_s) == 0:
                            break
                        self._wake.wait(expires_in_s)
                    self._admission.add(self._inbox)
                    self._inbox.clear()
                    if self._stopping:
                        return
                self._drop_cancelled()
                self._do_errands()
                self._retiring.retire()
                self._admit()
                if self._aloft:
                    self._take_turn()
                elif self._is_waiting:
                    memory.wait_for_load(_LOOK_AGAIN_S)
                else:
                    self._pacing.warm_up(self._shelves.models.models)
                if not self._is_waiting:
                    memory.take_in()
                if memory.take_let_go(WORTH_RELEASING_BYTES):
                    self._release_memory()
                    self._caps.memory_was_freed()
                self._pacing.keep()
        finally:
            self._end_all()

    def _admit(self) -> None:
        """Make jobs whose models are there into rows: as many as take little time together, so that a burst soon shares its forwards."""
        until = time.monotonic() + _ADMITS_WITHIN_S
        while (admitted := self._admission.next(self._aloft.rows_by_client)) is not None:
            self._aloft.add(admitted)
            if time.monotonic() > until:
                return

    def _drop_cancelled(self) -> None:
        self._admission.drop_cancelled()
        self._aloft.land_cancelled()

    @property
    def _is_waiting(self) -> bool:
        """Whether somebody waits for a model to come into memory."""
        return bool(len(self._admission)) or self._safety.is_loading

    @property
    def _is_called(self) -> bool:
        """Whether there is something to do beside the drawing."""
        asked = self._inbox or self._stopping or self._asked_looks or self._asked_clearings
        return bool(asked or self._safety.has_errand or self._retiring.has_ended_any)

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def _do_errands(self) -> None:
        """What was asked beside drawing: note who looks at what is in flight, clear caches."""
        with self._wake:
            looks, clearings = list(self._asked_looks), list(self._asked_clearings)
            self._asked_looks.clear()
            self._asked_clearings.clear()
        self._aloft.looks.note(looks, self._aloft)
        for done in clearings:
            done(self._clear(host_too=True))
            self._caps.memory_was_freed()
        self._safety.tend(self._nudge)

    def _clear(self, *, host_too: bool = False) -> int:
        """`host_too`: models that wait in the host's memory are forgotten as well, which frees nothing on the device."""
        try:
            freed = self._shelves.memory.clear_host() if host_too else 0
            freed += self._shelves.clear() + self._safety.evict_idle()
            self._release_memory()
            self._shelves.memory.take_let_go(0)  # once is enough: it may take most of a second
        except Exception:  # noqa: BLE001 - a device that can't give memory back must not end the drawing
            _log.exception("caches could not be cleared")
            return 0
        return freed

    def _take_turn(self) -> None:
        """One step of some rows, or one decode of some; retire what has become a picture."""
        self._pacing.stopwatch.collect()
        self._retiring.begin_beside()
        wishes = Wishes.of(self._aloft, decodes_beside=self._retiring.is_beside)
        turn = self._turns.next(wishes.all, self._caps)
        if turn is None:
            # All that is in flight is being decoded beside.
            with self._wake:
                if not self._is_called:
                    self._wake.wait(_LOOK_AGAIN_S)
        elif turn.is_last:
            self._retiring.decode(wishes.endings_of(turn))
        else:
            self._stepping.step(wishes.steps_of(turn), turn.batch)
        self._retiring.retire()
        if turn is not None:
            self._turns.charge(turn, self._caps.cost(turn.batch, turn.samples))

    def _end_all(self) -> None:
        self._aloft.land_all()
        with self._wake:
            self._admission.add(self._inbox)
            self._inbox.clear()
            self._ended = True
        self._admission.close()
        self._do_errands()
        self._retiring.close()
        self._shelves.close()
        self._safety.close()
        self._pacing.close()
        self._close_device()
