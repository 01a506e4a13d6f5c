"""What the drawing loop needs to know of a picture in flight, whichever model draws it."""

from __future__ import annotations

from typing import Protocol

from sdapi.pipelines.scheduling.row import BatchKey


class Course(Protocol):
    """A picture's way through its steps."""

    @property
    def finished(self) -> bool:
        """Whether every step has been taken, so that the picture can be decoded."""
        ...

    @property
    def name(self) -> str:
        """Class name of the sampler."""
        ...


class InFlight(Protocol):
    """One picture that is being drawn. `Row` is one, and so is `WholeRow`."""

    @property
    def key(self) -> BatchKey:
        """Those with equal keys may share a forward."""
        ...

    @property
    def sampler(self) -> Course:
        """Where it is."""
        ...

    @property
    def forwards(self) -> int:
        """What a step of it costs, in forwards of a Stable Diffusion UNet."""
        ...

    @property
    def steps_done(self) -> int:
        """Steps taken."""
        ...

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    def close(self) -> None:
        """Let go of what it holds besides memory. Called once when its job ends, however it ends; nothing more is drawn of it then."""
        ...
