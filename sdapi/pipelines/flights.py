"""A job in flight: its rows, what enlarges them, and what it keeps in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img, Upscale
from sdapi.domain.progress import Progress

from .in_flight import InFlight
from .leases import Leases
from .models import Model
from .tickets import Ticket
from .upscalers.enlarging import Enlarging
from .upscalers.model import UpscalerModel


@dataclass
class Flight:
    """A ticket whose rows are being drawn."""

    ticket: Ticket
    leases: Leases[Model]
    model: Model | None
    """None where nothing is drawn, only enlarged."""
    rows: list[InFlight]
    started: float
    images: dict[int, Image.Image] = field(default_factory=dict)
    """As drawn."""
    upscaler: UpscalerModel | None = None
    enlarging: list[Enlarging] = field(default_factory=list)
    """One for each picture that is to be enlarged; those of rows wait until these are drawn."""
    enlarged: dict[int, Image.Image] = field(default_factory=dict)

    @property
    def parts(self) -> list[InFlight]:
        """All that takes steps."""
        return [*self.rows, *self.enlarging]

    @property
    def active(self) -> list[InFlight]:
        """Those that can take a step now."""
        ready = [*self.rows, *(row for row in self.enlarging if row.ready)]
        return [row for row in ready if not row.sampler.finished]

    @property
    def progress(self) -> Progress:
        """Steps of all parts together, tiles included."""
        return Progress(sum(row.steps_done for row in self.parts), sum(row.steps for row in self.parts))

    @property
    def results(self) -> tuple[Image.Image, ...] | None:
        """All pictures as they were asked for; None until the last of them is there."""
        done, count = (self.enlarged, len(self.enlarging)) if self.enlarging else (self.images, len(self.rows))
        return tuple(done[index] for index in range(count)) if len(done) == count else None

    def model_of(self, row: InFlight) -> Any:
        """What runs it. Untyped, because rows and what is predicted for them come back to their own model alone."""
        return self.upscaler if isinstance(row, Enlarging) else self.model

    def decode_one(self) -> int | None:
        """Make one finished row into a picture: which, or None where there was none. Raises what decoding raised."""
        for rows, images in ((self.rows, self.images), (self.enlarging, self.enlarged)):
            for index, row in enumerate(rows):
                if row.sampler.finished and index not in images:
                    images[index] = self.model_of(row).decode(row)
                    if images is self.images and self.enlarging:
                        self.enlarging[index].begin(images[index])
                    return index
        return None


def acquired(request: Txt2Img | Img2Img | Inpaint | ControlNet | Upscale, leases: Leases[Model]) -> bool:
    """Whether everything the job needs is in memory. Raises what loading raised."""
    has_model = isinstance(request, Upscale) or leases.acquire(request.checkpoint, _control_net_ids(request)) is not None
    return (request.upscaler is None or leases.acquire_upscaler(request.upscaler) is not None) and has_model


def prepared(ticket: Ticket, leases: Leases[Model]) -> Flight:
    """The job as rows. Raises what preparing raised."""
    request, upscaler = ticket.request, leases.upscaler
    flight = Flight(ticket, leases, leases.model, [], time.monotonic(), upscaler=upscaler)
    if isinstance(request, Upscale):
        if upscaler is None or ticket.init_image is None:
            raise ValueError("there is nothing to enlarge, or nothing to enlarge it with")
        flight.enlarging = [upscaler.begin(ticket.init_image.size, request.scale, ticket.init_image)]
        return flight
    if flight.model is None:
        raise ValueError("there is nothing to draw with")
    flight.rows = flight.model.prepare(request, ticket.init_image, ticket.mask_image, ticket.control_image, leases.control_nets)
    if request.upscale:
        if upscaler is None:
            raise InvalidRequest.of("upscale", "No upscaler was chosen when the request was accepted.")
        flight.enlarging = [upscaler.begin((request.width, request.height), request.upscale) for _ in flight.rows]
    return flight


def _control_net_ids(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> tuple[str, ...]:
    return request.controlnet_models if isinstance(request, ControlNet) else ()
