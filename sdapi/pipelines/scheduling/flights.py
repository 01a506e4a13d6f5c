"""A job in flight: its rows, what enlarges them, and what it keeps in memory."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.films import Film
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.models_in_memory import film_entry
from sdapi.domain.progress import Progress
from sdapi.pipelines.families.film import FilmModel, FilmRow
from sdapi.pipelines.memory.leases import Leases
from sdapi.pipelines.scheduling.in_flight import InFlight
from sdapi.pipelines.scheduling.models import Model, SharesForwards
from sdapi.pipelines.scheduling.tickets import Ticket
from sdapi.pipelines.upscalers.enlarging import Enlarging
from sdapi.pipelines.upscalers.faces import RestoringFaces
from sdapi.pipelines.upscalers.kinds import AnyEnlarging, Upscaler
from sdapi.pipelines.upscalers.repainting import Guide, Repainting

_CELL_PIXELS = 64


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
    upscaler: Upscaler | None = None
    enlarging: list[AnyEnlarging] = field(default_factory=list)
    """One for each picture that is to be enlarged; those of rows wait until these are drawn."""
    enlarged: dict[int, Image.Image] = field(default_factory=dict)
    faces: RestoringFaces | None = None
    """Of the picture that is enlarged, laid over the result."""
    joint: SharesForwards | None = None
    """The model, where its rows share forwards and decodes."""
    away: set[int] = field(default_factory=set)
    """Of rows that are being decoded beside the drawing."""

    @property
    def parts(self) -> list[InFlight]:
        """All that takes steps."""
        return [*self.rows, *self.enlarging, *([] if self.faces is None else [self.faces])]

    @property
    def active(self) -> list[InFlight]:
        """Those that can take a step now."""
        ready = [row for row in self.parts if not isinstance(row, Enlarging | Repainting) or row.ready]
        return [row for row in ready if not row.sampler.finished]

    def is_joint(self, row: InFlight) -> bool:
        """Whether this row can share forwards with others."""
        return self.joint is not None and not isinstance(row, Enlarging | Repainting | RestoringFaces)

    @property
    def work_left(self) -> float:
        """Of all steps to come, in pixels that go through a Stable Diffusion UNet."""
        return sum(
            (row.steps - row.steps_done) * row.forwards * row.key.latent_height * row.key.latent_width * _CELL_PIXELS for row in self.parts
        )

    @property
    def progress(self) -> Progress:
        """Steps of all parts together, tiles included."""
        return Progress(sum(row.steps_done for row in self.parts), sum(row.steps for row in self.parts))

    @property
    def results(self) -> tuple[Image.Image, ...] | None:
        """All pictures as they were asked for; None until the last of them is there."""
        done, count = (self.enlarged, len(self.enlarging)) if self.enlarging else (self.images, len(self.rows))
        return tuple(done[index] for index in range(count)) if len(done) == count else None

    @property
    def film(self) -> Film | None:
        """The film, once it is decoded; None where pictures were asked for."""
        return next((row.film for row in self.rows if isinstance(row, FilmRow)), None)

    def model_of(self, row: InFlight) -> Any:
        """What runs it. Untyped, because rows and what is predicted for them come back to their own model alone."""
        if isinstance(row, RestoringFaces):
            return None if self.leases.faces is None else self.leases.faces.restorer
        return self.upscaler if isinstance(row, Enlarging | Repainting) else self.model

    @property
    def endings(self) -> list[Ending]:
        """Those that have taken their steps and that nobody is decoding yet."""
        drawn = [Ending(self, index, row) for index, row in enumerate(self.rows) if index not in self.images and index not in self.away]
        awaits_faces = self.faces is not None and not self.faces.sampler.finished
        enlarging = [] if awaits_faces else self.enlarging
        enlarged = [Ending(self, index, row, is_drawn=False) for index, row in enumerate(enlarging) if index not in self.enlarged]
        return [ending for ending in (*drawn, *enlarged) if ending.row.sampler.finished]

    def take(self, ending: Ending, image: Image.Image) -> None:
        """One of the rows has become a picture. Raises where that can't be gone on with."""
        if not ending.is_drawn:
            self.enlarged[ending.index] = image
        else:
            self.images[ending.index] = image
            self.away.discard(ending.index)
        if ending.is_drawn and self.enlarging:
            self.enlarging[ending.index].begin(image)
        elif self.faces is not None:
            self.faces.lay_over(image)


@dataclass(frozen=True)
class Ending:
    """A row to be made into a picture."""

    flight: Flight
    index: int
    row: InFlight
    is_drawn: bool = True
    """Else enlarged."""

    @property
    def company(self) -> Hashable | None:
        """Those with equal ones can be decoded together; None: it alone."""
        joint = self.flight.joint if self.is_drawn else None
        return None if joint is None else joint.decode_group(self.row)


def decoded_together(endings: Sequence[Ending]) -> list[Image.Image]:
    """Their pictures, in order; those of more than one must have the same `company`. Raises what decoding raised."""
    first = endings[0].flight
    if len(endings) > 1 and first.joint is not None:
        return first.joint.decode_together([ending.row for ending in endings])
    return [ending.flight.model_of(ending.row).decode(ending.row) for ending in endings]


def model_of(request: Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video | Upscale) -> str | None:
    """What the residency calls the model it is drawn with; None where nothing is drawn."""
    if isinstance(request, Text2Video):
        return film_entry(request.checkpoint, request.motion_adapter)
    return None if isinstance(request, Upscale) else request.checkpoint


def acquired(request: Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video | Upscale, leases: Leases[Model]) -> bool:
    """Whether everything the job needs is in memory. Raises what loading raised."""
    if isinstance(request, Text2Video):
        return leases.acquire(film_entry(request.checkpoint, request.motion_adapter), ()) is not None
    has_model = isinstance(request, Upscale) or leases.acquire(request.checkpoint, _control_net_ids(request)) is not None
    has_faces = leases.faces is None or leases.faces.acquire()
    return (request.upscaler is None or leases.acquire_upscaler(request.upscaler) is not None) and has_model and has_faces


def prepared(ticket: Ticket, leases: Leases[Model]) -> Flight:
    """The job as rows. Raises what preparing raised."""
    request, upscaler = ticket.request, leases.upscaler
    flight = Flight(ticket, leases, leases.model, [], time.monotonic(), upscaler=upscaler)
    if isinstance(request, Upscale):
        if upscaler is None or ticket.init_image is None:
            raise ValueError("there is nothing to enlarge, or nothing to enlarge it with")
        flight.enlarging = [upscaler.begin(ticket.init_image.size, request.scale, ticket.init_image, Guide(seed=request.seed))]
        if request.face_enhance:
            if leases.faces is None or leases.faces.restorer is None:
                raise InvalidRequest.of("face_enhance", "Nothing that restores faces is installed.")
            flight.faces = leases.faces.restorer.begin(ticket.init_image)
        return flight
    if flight.model is None:
        raise ValueError("there is nothing to draw with")
    if isinstance(request, Text2Video):
        if not isinstance(flight.model, FilmModel):
            raise ValueError("a model for pictures was brought to draw a film")
        flight.rows = [flight.model.prepare_film(request)]
        return flight
    flight.joint = flight.model if isinstance(flight.model, SharesForwards) else None
    flight.rows = flight.model.prepare(request, ticket.init_image, ticket.mask_image, ticket.control_image, leases.control_nets)
    if request.upscale:
        if upscaler is None:
            raise InvalidRequest.of("upscale", "No upscaler was chosen when the request was accepted.")
        guides = [Guide(request.prompt, (request.seed + sample) % 2**32) for sample in range(len(flight.rows))]
        flight.enlarging = [upscaler.begin((request.width, request.height), request.upscale, guide=guide) for guide in guides]
    return flight


def _control_net_ids(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> tuple[str, ...]:
    return request.controlnet_models if isinstance(request, ControlNet) else ()
