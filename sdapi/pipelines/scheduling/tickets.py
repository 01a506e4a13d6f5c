"""What goes into the drawing loop and what comes out of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from PIL import Image

from sdapi.domain.films import Film
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.progress import Progress


@dataclass(frozen=True)
class Pictures:
    """All samples of a job, in order."""

    images: tuple[Image.Image, ...]
    seconds: float
    scheduler: str
    """Class name of the sampler that drew them."""
    request: Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video | Upscale | None = None
    """What was drawn: what was asked, with its prompts in English."""
    film: Film | None = None
    """Where a film was asked for; the one picture is a frame of it."""


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
    request: Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video | Upscale
    init_image: Image.Image | None
    cancelled: threading.Event
    report: Callable[[Progress], None]
    done: Callable[[Result], None]
    mask_image: Image.Image | None = None
    control_image: Image.Image | None = None
    client: Hashable = None
    """Whose it is: the device is shared fairly among clients."""
