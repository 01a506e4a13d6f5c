"""What the drawing loop asks of a loaded model, whichever family it is of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL import Image

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.memory.leases import Held
from sdapi.pipelines.scheduling.in_flight import InFlight

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


@runtime_checkable
class AdvancesTogether(Protocol):
    """A model that steps the rows of a forward in one operation."""

    def advance_together(self, rows: Sequence[Any], predictions: Sequence[Any]) -> list[Exception | None]:
        """One step of each row. What kept a row from it, in the rows' order, None where it was taken: one's trouble ends no neighbour's."""
        ...


def advance_each(model: Any, rows: Sequence[Any], predictions: Sequence[Any]) -> list[Exception | None]:
    """One step of each row, by any model; see AdvancesTogether."""
    if isinstance(model, AdvancesTogether):
        return model.advance_together(rows, predictions)
    troubles: list[Exception | None] = []
    for row, predicted in zip(rows, predictions, strict=True):
        try:
            model.advance(row, predicted)
        except Exception as error:  # noqa: BLE001 - one row's step must not end its neighbours
            troubles.append(error)
        else:
            troubles.append(None)
    return troubles


Model = ModelOf[Any, Any]


@runtime_checkable
class SharesForwards(Protocol):
    """A model whose rows share forwards, and at the end decodes."""

    @property
    def native_px(self) -> tuple[int, int]:
        """Width and height of the pictures it was trained on."""
        ...

    def decode_group(self, row: Any) -> Hashable | None:
        """Finished rows with equal ones may be decoded together; None: this one alone. They must have one model."""
        ...

    def decode_together(self, rows: Sequence[Any]) -> list[Image.Image]:
        """The pictures of finished rows of one group, in order; on any thread. Raises where one can't be decoded."""
        ...
