"""An upscaler as a model of the drawing loop: pictures become rows, a step runs one tile through the network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img, Upscale
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.memory.host_tier import Packed
from sdapi.pipelines.scheduling.row import BatchKey

from .enlarging import Enlarging, TileCourse
from .networks import DenseNetwork, Network
from .repainting import Guide
from .tiles import tiles_of

_TILE_BYTES = {"cpu": 2**29, "cuda": 2**31}
"""What running one tile may take at once."""
_TILE_FLOP = {"cpu": 3e11, "cuda": 2e13}
"""What one tile may take of the device while everybody else waits: a few seconds of CPU cores, a second of a GPU."""
_LEAST_TILE_PIXELS = 160**2
"""Below this the margins would be most of the work."""
_UNET_FLOP_PER_PX = 3e6
"""Of one forward of SD 1.x: what `forwards` counts in."""


class UpscalerModel:
    """See Model."""

    def __init__(self, upscaler_id: str, network: Network, *, tile_pixels: int | None = None) -> None:
        """`tile_pixels` is the largest tile; None: what the device takes well."""
        self._id = upscaler_id
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parameter = next(network.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._fold = network.shape.unshuffle if isinstance(network, DenseNetwork) else 1
        self._tile_pixels = tile_pixels or _tile_pixels(network, parameter)
        self._numbers = itertools.count()

    @property
    def size_bytes(self) -> int:
        """See Model."""
        return sum(parameter.nbytes for parameter in self._network.parameters())

    def packed(self) -> Packed[UpscalerModel]:
        """See CanReturn: it keeps nothing but its network."""
        return Packed((self._network,), lambda: self)

    def additions(self, request: Txt2Img | Img2Img | Inpaint | ControlNet | Upscale) -> None:
        """See Model: nothing."""

    def begin(
        self,
        size: tuple[int, int],
        scale: float,
        picture: Image.Image | None = None,
        guide: Guide | None = None,  # noqa: ARG002 - networks know no words
    ) -> Enlarging:
        """A row that makes a picture of that size so many times larger; the picture may come later."""
        width, height = size
        network = self._network
        tiles = tiles_of(width, height, reach_px=network.reach_px, step_px=self._fold, max_pixels=self._tile_pixels)
        mean_pixels = sum(tile.read_pixels for tile in tiles) // len(tiles)
        # A key of its own: one tile is a step, and pictures that are enlarged at once take turns, too.
        key = BatchKey(f"{self._id} {next(self._numbers)}", max(1, mean_pixels // 64), 1, 0)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        forwards = max(1, round(network.flop_per_px / _UNET_FLOP_PER_PX))
        return Enlarging(key, TileCourse(tiles), size, target, network.shape.scale, forwards, picture)

    def prepare(
        self,
        request: Upscale,
        init_image: Image.Image | None,
        mask_image: Image.Image | None = None,  # noqa: ARG002 - see Model
        control_image: Image.Image | None = None,  # noqa: ARG002
        control_nets: Sequence[ControlNetwork] = (),  # noqa: ARG002
    ) -> list[Enlarging]:
        """See Model."""
        if init_image is None:
            raise ValueError("there is no picture to enlarge")
        return [self.begin(init_image.size, request.scale, init_image)]

    @torch.inference_mode()
    def predict(self, rows: Sequence[Enlarging]) -> list[Tensor]:
        """The next tile of each row, (height, width, 3) in 0 to 255 as bytes on the CPU."""
        return [self._run(row.shown_to_network()) for row in rows]

    def advance(self, row: Enlarging, predicted: Tensor) -> None:
        """See Model."""
        row.take(Image.fromarray(predicted.numpy()))

    def decode(self, row: Enlarging) -> Image.Image:
        """See Model."""
        if row.canvas is None:
            raise ValueError("nothing has been enlarged yet")
        return row.canvas

    def preview(self, row: Enlarging, predicted: Tensor) -> Image.Image | None:  # noqa: ARG002 - see Model
        """See Model: the picture itself, which becomes the same but larger."""
        return row.picture

    def clear_caches(self) -> int:
        """See Model: there are none."""
        return 0

    def _run(self, picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(picture)).to(self._device).permute(2, 0, 1)[None].to(self._dtype) / 255
        enlarged: Tensor = self._network(pixels.contiguous(memory_format=torch.channels_last))
        return enlarged[0].float().clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()


def _tile_pixels(network: Network, parameter: Tensor) -> int:
    device = parameter.device.type if parameter.device.type in _TILE_BYTES else "cuda"
    fitting = _TILE_BYTES[device] * 4 // (network.work_bytes_per_px * parameter.element_size())
    quick = max(_LEAST_TILE_PIXELS, int(_TILE_FLOP[device] / network.flop_per_px))
    return min(fitting, quick)
