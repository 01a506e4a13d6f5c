"""The seam to the device: what an engine is asked, and what it answers. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from PIL import Image

from sdapi.domain.films import Film
from sdapi.domain.generation import AnyRequest, SchedulerName
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.domain.progress import Progress


@dataclass(frozen=True)
class Work:
    """One job for the engine, with everything it needs: no engine reads the database or storage."""

    job_id: int
    request: AnyRequest
    init_image: Image.Image | None = None
    """RGB, of the request's size."""
    mask_image: Image.Image | None = None
    """L, of the request's size; white is drawn anew."""
    control_image: Image.Image | None = None
    """RGB, of the request's size; leads the structure."""
    client_id: int | None = None
    """Whose it is: a device is shared fairly among clients. None: the server's own."""


@dataclass(frozen=True)
class Drawn:
    """All samples, in order, as RGB pictures of the requested size."""

    images: tuple[Image.Image, ...]
    seconds: float
    """From the first step to the last decode."""
    scheduler: SchedulerName | None = None
    """The sampler that drew them; None for one that requests can't name."""
    request: AnyRequest | None = None
    """What was drawn, where that isn't what was asked: with its prompts in English."""
    unsafe: tuple[bool, ...] | None = None
    """Of each picture, whether it was found unsafe and is covered; None where nobody has looked."""
    film: Film | None = None
    """Where a film was asked for: the pictures are a few of its frames, which are looked at in its stead."""


@dataclass(frozen=True)
class Failed:
    """The drawing did not succeed. `reason` is for the client: a sentence without internals."""

    reason: str


@dataclass(frozen=True)
class Cancelled:
    """Somebody asked for it to stop, and it stopped."""


Outcome = Drawn | Failed | Cancelled

Report = Callable[[Progress], None]


class Engine(Protocol):
    """Draws pictures. One implementation runs threads in this process; another may use a cluster."""

    async def draw(self, work: Work, report: Report, cancelled: Event) -> Outcome:
        """Draw one job, loading what that needs; many may be in flight at once and share forwards.

        `report` is called on the event loop. `cancelled` is looked at between steps. Raises only when the engine itself is broken.
        """

    async def preview(self, job_id: int) -> Image.Image | None:
        """A small RGB picture of what the job's first sample is becoming, made at its next step; None when it isn't being drawn here.

        None, too, of a job whose pictures are checked before anybody may see them.
        Never changes nor fails the drawing.
        """

    async def is_unsafe(self, image: Image.Image) -> bool | None:
        """Whether a safety checker finds this picture unsafe; None where none is installed. Raises NotAvailable where it can't be used."""

    async def clear_caches(self) -> int:
        """Forget models nobody uses and whatever else can be made again; how many bytes that freed. Drawing goes on."""

    def room(self) -> int:
        """How many more pictures can be in flight now."""

    def models(self) -> ModelsInMemory:
        """What could be drawn with at once, and what is on its way."""

    def preloading(self) -> tuple[str, ...]:
        """Models that were to be in memory before the first request and aren't yet."""

    def problem(self) -> str | None:
        """Why the engine can't draw, or None when it can."""

    async def stop(self) -> None:
        """Let nothing more begin and give up what is running; return when the threads have ended."""
