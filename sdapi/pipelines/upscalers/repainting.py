"""A picture on its way to a larger one that is drawn, not computed: a row whose step is one denoising step of one patch."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from sdapi.pipelines.scheduling.row import BatchKey
from sdapi.pipelines.whole.stepped_call import SteppedCall

from .overlaps import Mosaic, Patch


@dataclass(frozen=True)
class Guide:
    """What leads an upscaler that draws."""

    prompt: str = ""
    """What is to be seen; empty: whatever it is."""
    seed: int = 0


@dataclass
class PatchCourse:
    """See Course. Each patch takes its denoising steps, and one more to be decoded."""

    patches: list[Patch]
    steps_each: int
    position: int = 0

    @property
    def total(self) -> int:
        """Turns of all patches."""
        return len(self.patches) * (self.steps_each + 1)

    @property
    def finished(self) -> bool:
        """See Course."""
        return self.position >= self.total

    @property
    def name(self) -> str:
        """See Course: none that a request could name."""
        return ""

    @property
    def index(self) -> int:
        """Which patch is at hand."""
        return self.position // (self.steps_each + 1)


@dataclass(frozen=True)
class Turn:
    """What came of one step."""

    step: int
    """How many of its steps the patch has taken."""
    drawn: Image.Image | None
    """The patch, once it is done."""


@dataclass
class Repainting:
    """See InFlight. Made with the size alone where the picture is still being drawn; `picture` comes then."""

    key: BatchKey
    """Nobody else's."""
    sampler: PatchCourse
    size: tuple[int, int]
    """Of the input."""
    target: tuple[int, int]
    """Of the result."""
    forwards: int
    """See InFlight."""
    guide: Guide
    mosaic: Mosaic
    picture: Image.Image | None = None
    """RGB, of `size`."""
    call: SteppedCall[Image.Image] | None = field(default=None, init=False)
    """The pipeline's, of the patch at hand."""
    step: int = field(default=0, init=False)
    """How far that is, told by the call."""

    @property
    def ready(self) -> bool:
        """Whether its picture is there."""
        return self.picture is not None

    def begin(self, picture: Image.Image) -> None:
        """The picture has come. It must have the size its patches were made for."""
        if picture.size != self.size:
            raise ValueError(f"a picture of {picture.size} came where one of {self.size} was to be enlarged")
        self.picture = picture

    @property
    def steps_done(self) -> int:
        """See InFlight."""
        return self.sampler.position

    @property
    def steps(self) -> int:
        """See InFlight."""
        return self.sampler.total

    @property
    def patch(self) -> Patch:
        """The one at hand."""
        return self.sampler.patches[self.sampler.index]

    def take(self, turn: Turn) -> None:
        """Count the step; a patch that is done is laid into its place."""
        course = self.sampler
        first = course.index * (course.steps_each + 1)
        if turn.drawn is None:
            course.position = first + min(turn.step, course.steps_each)
            return
        self.mosaic.lay(self.patch, turn.drawn)
        self.call, self.step = None, 0
        course.position = first + course.steps_each + 1

    def close(self) -> None:
        """End the call, wherever it is."""
        if self.call is not None:
            self.call.close()
        self.call = self.picture = None
