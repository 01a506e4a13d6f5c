"""What the drawing loop asks of a loaded model, whichever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from PIL import Image

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img

from .controlnets import ControlNetwork
from .in_flight import InFlight
from .leases import Held

RowT = TypeVar("RowT", bound=InFlight)
StepT = TypeVar("StepT")


class ModelOf(Protocol[RowT, StepT]):
    """A loaded model, as far as the loop is concerned (see `families/`): rows and what it predicts for them come back to it alone."""

    @property
    def size_bytes(self) -> int:
        """See HasSize."""
        ...

    def additions(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Held | None:
        """What the request needs in memory besides the model, None for nothing. Raises InvalidRequest where there is no such thing."""
        ...

    def prepare(
        self,
        request: Txt2Img | Img2Img | Inpaint | ControlNet,
        init_image: Image.Image | None,
        mask_image: Image.Image | None = None,
        control_image: Image.Image | None = None,
        control_nets: Sequence[ControlNetwork] = (),
    ) -> list[RowT]:
        """One row per sample. The pictures and nets are those the request names; pictures have its size, `mask_image` is L, others RGB."""
        ...

    def predict(self, rows: Sequence[RowT]) -> list[StepT]:
        """One joint forward; changes no row."""
        ...

    def advance(self, row: RowT, predicted: StepT) -> None:
        """One step of one row."""
        ...

    def decode(self, row: RowT) -> Image.Image:
        """The finished picture."""
        ...

    def preview(self, row: RowT, predicted: StepT) -> Image.Image | None:
        """A small picture of what the row is becoming, None where it can't be told; changes no row."""
        ...

    def clear_caches(self) -> int:
        """Forget what could be made again; how many bytes it took."""
        ...


Model = ModelOf[Any, Any]
