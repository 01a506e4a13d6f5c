"""The drawing loop: admit, step, retire. Pictures of different users share forwards and join at the next step.

Knows nothing of torch or models: a `Model` prepares rows, predicts for a batch, advances a row and decodes it. One thread runs
`run`; any thread may `submit`. Batches that can't share a forward take turns by what they have cost so far (fair queueing), and a
lone request never waits for company.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from PIL import Image

from sdapi.catalog import ModelBroken
from sdapi.domain.errors import SdapiError
from sdapi.domain.generation import Text2Video, Upscale
from sdapi.domain.models_in_memory import ModelsInMemory

from .controlnets import ControlNetwork
from .flights import Flight, acquired, prepared
from .in_flight import InFlight
from .leases import Leases
from .models import Model
from .residency import Residency
from .row import BatchKey
from .safety_stage import Question, SafetyStage, Unchecked, Verdict
from .tickets import Look, Pictures, Result, Stopped, Ticket, Trouble
from .translations import Translations
from .upscalers.face_shelf import FaceShelf
from .upscalers.kinds import Upscaler

_log = logging.getLogger(__name__)

_WORTH_RELEASING_BYTES = 2**26
"""Looking for what lingers of models that left takes about a tenth of a second."""


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
    ) -> None:
        """A forward takes at most `max_batch_rows` rows and about `max_batch_pixels` of picture; one row always fits.

        `control_nets`, `upscalers` and `translations` share the models' memory; None where no request names any.

        `release_memory` gives back to the device what was kept for later use, and what models that left still hold; called on the
        loop's thread.
        """
        self._residency = residency
        self._control_nets = control_nets if control_nets is not None else Residency(_no_control_net, residency.memory)
        self._upscalers = upscalers if upscalers is not None else Residency(_no_upscaler, residency.memory)
        self._safety = safety if safety is not None else SafetyStage.empty(residency.memory)
        self._translations = translations
        self._faces = faces
        self._max_batch_pixels = max_batch_pixels
        self._max_batch_rows = max_batch_rows
        self._release_memory = release_memory
        self._inbox: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._ended = False
        self._waiting: list[Ticket] = []
        self._leases: dict[int, Leases[Model]] = {}
        """Of waiting jobs some of whose models are there: those stay until the others have come."""
        self._flights: list[Flight] = []
        self._asked_looks: deque[tuple[int, Look]] = deque()
        self._asked_clearings: deque[Callable[[int], None]] = deque()
        self._looks: dict[int, list[Look]] = {}
        """Of jobs in flight; answered at their next step."""
        self._spent: dict[BatchKey, float] = {}

    @property
    def models(self) -> ModelsInMemory:
        """What is in memory and what is on its way; any thread may look. Upscalers are told by `upscaler_entry`."""
        return self._residency.state.with_upscalers(self._upscalers.state)

    @property
    def max_batch_pixels(self) -> int:
        """About how much of picture one forward takes."""
        return self._max_batch_pixels

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
        try:
            while True:
                with self._wake:
                    while not (self._inbox or self._is_waiting or self._flights or self._stopping or self._has_errands()):
                        self._wake.wait()
                    self._waiting.extend(self._inbox)
                    self._inbox.clear()
                    if self._stopping:
                        return
                self._drop_cancelled()
                self._do_errands()
                self._admit_one()
                if self._flights:
                    self._step(self._next_key())
                    self._retire_one()
                elif self._is_waiting:
                    self._residency.memory.wait_for_load(0.05)
                if not self._is_waiting:
                    self._residency.memory.take_in()
                if self._residency.memory.take_let_go(_WORTH_RELEASING_BYTES):
                    self._release_memory()
        finally:
            self._end_all()

    def _drop_cancelled(self) -> None:
        for ticket in [t for t in self._waiting if t.cancelled.is_set()]:
            self._waiting.remove(ticket)
            if self._translations is not None:
                self._translations.forget(ticket.job_id)
            if (leases := self._leases.pop(ticket.job_id, None)) is not None:
                leases.release()
            ticket.done(Stopped())
        for flight in [f for f in self._flights if f.ticket.cancelled.is_set()]:
            self._land(flight, Stopped())

    def _admit_one(self) -> None:
        """Make the first ticket whose model is there into rows. One a cycle, so that admitting never stalls those in flight for long."""
        for ticket in self._waiting:
            try:
                # Before its models are leased: which additions it needs depends on the words.
                if not self._put_into_english(ticket):
                    continue
                leases = self._leases.setdefault(ticket.job_id, self._new_leases(ticket))
                is_ready = acquired(ticket.request, leases)
            except Exception as error:  # noqa: BLE001 - whatever loading raises must fail this job, not the loop
                self._waiting.remove(ticket)
                if (taken := self._leases.pop(ticket.job_id, None)) is not None:
                    taken.release()
                ticket.done(self._trouble(error, [ticket.job_id], "the model could not be loaded"))
                return
            if not is_ready:
                continue
            self._waiting.remove(ticket)
            del self._leases[ticket.job_id]
            try:
                self._flights.append(prepared(ticket, leases))
            except Exception as error:  # noqa: BLE001 - a request that can't be prepared must not end its neighbours
                leases.release()
                ticket.done(self._trouble(error, [ticket.job_id], "the drawing could not be prepared"))
            return

    def _put_into_english(self, ticket: Ticket) -> bool:
        """Whether the ticket's prompts are in English by now. Raises what translating raised."""
        if self._translations is None or isinstance(ticket.request, Upscale):
            return True
        english = self._translations.in_english(ticket.job_id, ticket.request)
        ticket.request = english or ticket.request
        return english is not None

    def _new_leases(self, ticket: Ticket) -> Leases[Model]:
        request = ticket.request
        additions = (lambda _: None) if isinstance(request, Upscale | Text2Video) else (lambda model: model.additions(request))
        restores_faces = isinstance(request, Upscale) and request.face_enhance
        faces = self._faces.lease() if restores_faces and self._faces is not None else None
        return Leases(self._residency, self._control_nets, additions, self._upscalers, faces)

    @property
    def _is_waiting(self) -> bool:
        """Whether somebody waits for a model to come into memory."""
        return bool(self._waiting) or self._safety.is_loading

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def _has_errands(self) -> bool:
        return bool(self._asked_looks or self._asked_clearings or self._safety.has_errand)

    def _do_errands(self) -> None:
        """What was asked beside drawing: note who looks at what is in flight, clear caches."""
        with self._wake:
            looks, clearings = list(self._asked_looks), list(self._asked_clearings)
            self._asked_looks.clear()
            self._asked_clearings.clear()
        in_flight = {flight.ticket.job_id: flight for flight in self._flights}
        for job_id, look in looks:
            if (flight := in_flight.get(job_id)) is None:
                look(None)
            elif 0 in flight.images:
                look(flight.images[0])
            else:
                self._looks.setdefault(job_id, []).append(look)
        for done in clearings:
            done(self._clear())
        self._safety.tend(self._nudge)

    def _clear(self) -> int:
        try:
            freed = sum(model.clear_caches() for model in self._residency.models)
            freed += self._residency.evict_idle() + self._control_nets.evict_idle() + self._upscalers.evict_idle()
            freed += 0 if self._translations is None else self._translations.clear()
            freed += self._safety.evict_idle() + (0 if self._faces is None else self._faces.clear())
            self._release_memory()
        except Exception:  # noqa: BLE001 - a device that can't give memory back must not end the drawing
            _log.exception("caches could not be cleared")
            return 0
        return freed

    def _show(self, flight: Flight, row: InFlight, predicted: Any) -> None:
        """Answer whoever looks at this job, from the step at hand. Nothing that goes wrong here may reach the drawing."""
        try:
            image = flight.model_of(row).preview(row, predicted)
        except Exception as error:  # noqa: BLE001 - out of memory and kernel errors cost the look only
            _log.warning("a preview failed", extra={"job_ids": [flight.ticket.job_id], "error": repr(error)})
            image = None
        self._answer_looks(flight, image)

    def _answer_looks(self, flight: Flight, image: Image.Image | None) -> None:
        for look in self._looks.pop(flight.ticket.job_id, ()):
            look(image)

    def _next_key(self) -> BatchKey:
        """The batch that has cost least so far. One that arrives late starts level with the others, not with a credit."""
        keys = {row.key for flight in self._flights for row in flight.active}
        if not keys:
            return self._flights[0].parts[0].key
        level = min((self._spent[key] for key in keys if key in self._spent), default=0.0)
        self._spent = {key: self._spent.get(key, level) for key in keys}
        return min(keys, key=lambda key: (self._spent[key], str(key)))

    def _step(self, key: BatchKey) -> None:
        """One denoising step of up to a batch of the key's rows, oldest first."""
        pixels = key.latent_height * key.latent_width * 64
        limit = max(1, min(self._max_batch_rows, self._max_batch_pixels // pixels))
        active = [(flight, row) for flight in self._flights for row in flight.active if row.key == key][:limit]
        if not active:
            return
        self._spent[key] = self._spent.get(key, 0.0) + pixels * sum(row.forwards for _, row in active)
        looked_at = next(((flight, row) for flight, row in active if flight.ticket.job_id in self._looks and row is flight.parts[0]), None)
        self._advance(active, looked_at)
        for flight in {id(f): f for f, _ in active}.values():
            if flight in self._flights:
                flight.ticket.report(flight.progress)

    def _advance(self, active: list[tuple[Flight, InFlight]], looked_at: tuple[Flight, InFlight] | None) -> None:
        """Predict together, step apart. A forward that fails is tried again in halves, so that only the culprit's job fails.

        One row a cycle is shown to those who look at it, so that lookers never stall the drawing for long.
        """
        try:
            predictions = active[0][0].model_of(active[0][1]).predict([row for _, row in active])
        except Exception as error:  # noqa: BLE001 - out of memory and kernel errors must not end neighbours
            if len(active) > 1:
                _log.warning("a joint forward failed, trying in halves", extra={"rows": len(active), "error": repr(error)})
                middle = len(active) // 2
                self._advance(active[:middle], looked_at)
                self._advance([(flight, row) for flight, row in active[middle:] if flight in self._flights], looked_at)
                return
            flight = active[0][0]
            self._land(flight, self._trouble(error, [flight.ticket.job_id], "the drawing failed"))
            return
        for (flight, row), predicted in zip(active, predictions, strict=True):
            if flight not in self._flights:
                continue
            if looked_at is not None and row is looked_at[1]:
                self._show(flight, row, predicted)
            try:
                flight.model_of(row).advance(row, predicted)
            except Exception as error:  # noqa: BLE001 - one row's sampler must not end its neighbours
                self._land(flight, self._trouble(error, [flight.ticket.job_id], "the sampler failed"))

    def _retire_one(self) -> None:
        """Decode one finished picture. One a cycle: the others' next step comes between two decodes."""
        for flight in self._flights:
            try:
                index = flight.decode_one()
            except Exception as error:  # noqa: BLE001 - a picture that can't be decoded fails its own job only
                self._land(flight, self._trouble(error, [flight.ticket.job_id], "the picture could not be decoded"))
                return
            if index is None:
                continue
            if index == 0 and flight.images:
                self._answer_looks(flight, flight.images[0])
            if (images := flight.results) is not None:
                seconds = time.monotonic() - flight.started
                self._land(flight, Pictures(images, seconds, flight.parts[0].sampler.name, flight.ticket.request, flight.film))
            return

    def _land(self, flight: Flight, result: Result) -> None:
        self._flights.remove(flight)
        for row in flight.parts:
            row.close()
        self._answer_looks(flight, None)
        flight.leases.release()
        flight.ticket.done(result)

    def _end_all(self) -> None:
        for flight in list(self._flights):
            self._land(flight, Stopped())
        with self._wake:
            left = [*self._waiting, *self._inbox]
            self._waiting.clear()
            self._inbox.clear()
            self._ended = True
        for ticket in left:
            ticket.done(Stopped())
        self._do_errands()
        self._residency.close()
        self._control_nets.close()
        self._upscalers.close()
        self._safety.close()
        if self._faces is not None:
            self._faces.close()
        if self._translations is not None:
            self._translations.close()

    def _trouble(self, error: Exception, job_ids: list[int], sentence: str) -> Trouble:
        """Errors of the domain are written for clients; others are logged and summed up."""
        if isinstance(error, SdapiError):
            return Trouble(str(error))
        _log.error(sentence, extra={"job_ids": job_ids}, exc_info=error)
        return Trouble(sentence)


def _no_control_net(net_id: str) -> ControlNetwork:
    raise ModelBroken(net_id, f"There is no control net named {net_id!r} on this server.")


def _no_upscaler(upscaler_id: str) -> Upscaler:
    raise ModelBroken(upscaler_id, f"There is no upscaler named {upscaler_id!r} on this server.")
