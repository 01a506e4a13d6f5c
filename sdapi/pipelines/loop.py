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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image
from torch import Tensor

from sdapi.catalog import ModelBroken
from sdapi.domain.errors import SdapiError
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.domain.progress import Progress

from .controlnets import ControlNetwork
from .leases import Leases
from .residency import Residency
from .row import BatchKey, Row

_log = logging.getLogger(__name__)


class Model(Protocol):
    """A loaded model, as far as the loop is concerned (see `families/unet.py`)."""

    @property
    def size_bytes(self) -> int:
        """See HasSize."""
        ...

    def prepare(
        self,
        request: Txt2Img | Img2Img | Inpaint | ControlNet,
        init_image: Image.Image | None,
        mask_image: Image.Image | None = None,
        control_image: Image.Image | None = None,
        control_nets: Sequence[ControlNetwork] = (),
    ) -> list[Row]:
        """One row per sample. The pictures and nets are those the request names; pictures have its size, `mask_image` is L, others RGB."""
        ...

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        """One joint forward; changes no row."""
        ...

    def advance(self, row: Row, predicted: Tensor) -> None:
        """One step of one row."""
        ...

    def decode(self, row: Row) -> Image.Image:
        """The finished picture."""
        ...

    def preview(self, row: Row, predicted: Tensor) -> Image.Image:
        """A small picture of what the row is becoming; changes no row."""
        ...

    def clear_caches(self) -> int:
        """Forget what could be made again; how many bytes it took."""
        ...


@dataclass(frozen=True)
class Pictures:
    """All samples of a job, in order."""

    images: tuple[Image.Image, ...]
    seconds: float
    scheduler: str
    """Class name of the sampler that drew them."""


@dataclass(frozen=True)
class Trouble:
    """Why a job came to nothing, in words for its client."""

    reason: str


@dataclass(frozen=True)
class Stopped:
    """The job was cancelled, or the loop ended."""


Result = Pictures | Trouble | Stopped

Look = Callable[[Image.Image | None], None]
"""Called once, with a picture of a job that is being drawn, or None where there is none; on the loop's thread, as long as that runs."""


@dataclass
class Ticket:
    """A job handed to the loop. `report` and `done` are called on the loop's thread; `done` exactly once."""

    job_id: int
    request: Txt2Img | Img2Img | Inpaint | ControlNet
    init_image: Image.Image | None
    cancelled: threading.Event
    report: Callable[[Progress], None]
    done: Callable[[Result], None]
    mask_image: Image.Image | None = None
    control_image: Image.Image | None = None


@dataclass
class _Flight:
    """A ticket whose rows are being drawn."""

    ticket: Ticket
    leases: Leases[Model]
    model: Model
    rows: list[Row]
    started: float
    images: dict[int, Image.Image] = field(default_factory=dict)

    @property
    def progress(self) -> Progress:
        return Progress(sum(row.sampler.position for row in self.rows), sum(len(row.sampler.timesteps) for row in self.rows))


class DrawingLoop:
    """Continuous batching, step by step."""

    def __init__(
        self,
        residency: Residency[Model],
        *,
        max_batch_pixels: int,
        max_batch_rows: int,
        control_nets: Residency[ControlNetwork] | None = None,
        release_memory: Callable[[], None] = lambda: None,
    ) -> None:
        """A forward takes at most `max_batch_rows` rows and about `max_batch_pixels` of picture; one row always fits.

        `control_nets` keeps what of the models' budget they leave; None where no request names any.

        `release_memory` gives back to the device what was kept for later use; called on the loop's thread.
        """
        self._residency = residency
        self._control_nets = control_nets if control_nets is not None else Residency(_no_control_net, budget_bytes=0)
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
        self._flights: list[_Flight] = []
        self._asked_looks: deque[tuple[int, Look]] = deque()
        self._asked_clearings: deque[Callable[[int], None]] = deque()
        self._looks: dict[int, list[Look]] = {}
        """Of jobs in flight; answered at their next step."""
        self._spent: dict[BatchKey, float] = {}

    @property
    def models(self) -> ModelsInMemory:
        """What is in memory and what is on its way; any thread may look."""
        return self._residency.state

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
                    while not (self._inbox or self._waiting or self._flights or self._stopping or self._has_errands()):
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
                elif self._waiting:
                    self._control_nets.wait_for_load(0.05)
                    self._residency.wait_for_load(0.05)
        finally:
            self._end_all()

    def _drop_cancelled(self) -> None:
        for ticket in [t for t in self._waiting if t.cancelled.is_set()]:
            self._waiting.remove(ticket)
            if (leases := self._leases.pop(ticket.job_id, None)) is not None:
                leases.release()
            ticket.done(Stopped())
        for flight in [f for f in self._flights if f.ticket.cancelled.is_set()]:
            self._land(flight, Stopped())

    def _admit_one(self) -> None:
        """Make the first ticket whose model is there into rows. One a cycle, so that admitting never stalls those in flight for long."""
        for ticket in self._waiting:
            leases = self._leases.setdefault(ticket.job_id, Leases(self._residency, self._control_nets))
            try:
                model = leases.acquire(ticket.request.checkpoint, _control_net_ids(ticket.request))
            except Exception as error:  # noqa: BLE001 - whatever loading raises must fail this job, not the loop
                self._waiting.remove(ticket)
                self._leases.pop(ticket.job_id).release()
                ticket.done(self._trouble(error, [ticket.job_id], "the model could not be loaded"))
                return
            if model is None:
                continue
            self._waiting.remove(ticket)
            del self._leases[ticket.job_id]
            try:
                rows = model.prepare(ticket.request, ticket.init_image, ticket.mask_image, ticket.control_image, leases.control_nets)
            except Exception as error:  # noqa: BLE001 - a request that can't be prepared must not end its neighbours
                leases.release()
                ticket.done(self._trouble(error, [ticket.job_id], "the drawing could not be prepared"))
                return
            self._flights.append(_Flight(ticket, leases, model, rows, time.monotonic()))
            return

    def _has_errands(self) -> bool:
        return bool(self._asked_looks or self._asked_clearings)

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

    def _clear(self) -> int:
        try:
            freed = sum(model.clear_caches() for model in self._residency.leased())
            freed += self._residency.evict_idle() + self._control_nets.evict_idle()
            self._release_memory()
        except Exception:  # noqa: BLE001 - a device that can't give memory back must not end the drawing
            _log.exception("caches could not be cleared")
            return 0
        return freed

    def _show(self, flight: _Flight, row: Row, predicted: Tensor) -> None:
        """Answer whoever looks at this job, from the step at hand. Nothing that goes wrong here may reach the drawing."""
        try:
            image = flight.model.preview(row, predicted)
        except Exception as error:  # noqa: BLE001 - out of memory and kernel errors cost the look only
            _log.warning("a preview failed", extra={"job_ids": [flight.ticket.job_id], "error": repr(error)})
            image = None
        self._answer_looks(flight, image)

    def _answer_looks(self, flight: _Flight, image: Image.Image | None) -> None:
        for look in self._looks.pop(flight.ticket.job_id, ()):
            look(image)

    def _next_key(self) -> BatchKey:
        """The batch that has cost least so far. One that arrives late starts level with the others, not with a credit."""
        keys = {row.key for flight in self._flights for row in flight.rows if not row.sampler.finished}
        if not keys:
            return self._flights[0].rows[0].key
        level = min((self._spent[key] for key in keys if key in self._spent), default=0.0)
        self._spent = {key: self._spent.get(key, level) for key in keys}
        return min(keys, key=lambda key: (self._spent[key], str(key)))

    def _step(self, key: BatchKey) -> None:
        """One denoising step of up to a batch of the key's rows, oldest first."""
        pixels = key.latent_height * key.latent_width * 64
        limit = max(1, min(self._max_batch_rows, self._max_batch_pixels // pixels))
        active = [(flight, row) for flight in self._flights for row in flight.rows if row.key == key and not row.sampler.finished][:limit]
        if not active:
            return
        self._spent[key] = self._spent.get(key, 0.0) + pixels * sum(row.forwards for _, row in active)
        looked_at = next(((flight, row) for flight, row in active if flight.ticket.job_id in self._looks and row is flight.rows[0]), None)
        self._advance(active, looked_at)
        for flight in {id(f): f for f, _ in active}.values():
            if flight in self._flights:
                flight.ticket.report(flight.progress)

    def _advance(self, active: list[tuple[_Flight, Row]], looked_at: tuple[_Flight, Row] | None) -> None:
        """Predict together, step apart. A forward that fails is tried again in halves, so that only the culprit's job fails.

        One row a cycle is shown to those who look at it, so that lookers never stall the drawing for long.
        """
        try:
            predictions = active[0][0].model.predict([row for _, row in active])
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
                flight.model.advance(row, predicted)
            except Exception as error:  # noqa: BLE001 - one row's sampler must not end its neighbours
                self._land(flight, self._trouble(error, [flight.ticket.job_id], "the sampler failed"))

    def _retire_one(self) -> None:
        """Decode one finished picture. One a cycle: the others' next step comes between two decodes."""
        for flight in self._flights:
            for index, row in enumerate(flight.rows):
                if not row.sampler.finished or index in flight.images:
                    continue
                try:
                    flight.images[index] = flight.model.decode(row)
                except Exception as error:  # noqa: BLE001 - a picture that can't be decoded fails its own job only
                    self._land(flight, self._trouble(error, [flight.ticket.job_id], "the picture could not be decoded"))
                    return
                if index == 0:
                    self._answer_looks(flight, flight.images[0])
                if len(flight.images) == len(flight.rows):
                    images = tuple(flight.images[i] for i in range(len(flight.rows)))
                    self._land(flight, Pictures(images, time.monotonic() - flight.started, row.sampler.name))
                return

    def _land(self, flight: _Flight, result: Result) -> None:
        self._flights.remove(flight)
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

    def _trouble(self, error: Exception, job_ids: list[int], sentence: str) -> Trouble:
        """Errors of the domain are written for clients; others are logged and summed up."""
        if isinstance(error, SdapiError):
            return Trouble(str(error))
        _log.error(sentence, extra={"job_ids": job_ids}, exc_info=error)
        return Trouble(sentence)


def _control_net_ids(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> tuple[str, ...]:
    return request.controlnet_models if isinstance(request, ControlNet) else ()


def _no_control_net(net_id: str) -> ControlNetwork:
    raise ModelBroken(net_id, f"There is no control net named {net_id!r} on this server.")
