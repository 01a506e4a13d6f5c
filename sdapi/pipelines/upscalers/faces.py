"""Restoring faces: found in the picture as it was sent, drawn anew one by one, laid over the enlarged picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import Refused
from sdapi.pipelines.scheduling.row import BatchKey
from sdapi.pipelines.trained_maps.faces import FaceAnnotator

from .face_alignment import Placed, framed, paste_face, placed
from .face_network import FaceNetwork, FaceShape

_WRAPPERS = ("params_ema.", "params.")
_UNUSED = ("toRGB.", "stylegan_decoder.style_mlp.")
"""What training needed: colours on the way, and styles from noise."""
_FIND_AT_PX = 1024
"""The longest side faces are looked for at: the detector knows faces of up to about 300 pixels."""


def face_network_of(tensors: Mapping[str, Tensor]) -> FaceNetwork:
    """The network with these weights, for inference, on their device and in their dtype. Raises Refused."""
    for wrapper in _WRAPPERS:
        inside = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items() if name.startswith(wrapper)}
        tensors = inside or tensors
    used = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
    try:
        # Built without memory of its own, because the weights replace every tensor.
        with torch.device("meta"):
            network = FaceNetwork(_shape_of(used))
        network.load_state_dict(used, strict=True, assign=True)
    except (LookupError, ValueError, RuntimeError, TypeError) as error:
        raise Refused("Its tensors are not those of GFPGAN 1.3 or 1.4.") from error
    return network.eval().requires_grad_(requires_grad=False)


def _shape_of(tensors: Mapping[str, Tensor]) -> FaceShape:
    levels = sum(name.startswith("conv_body_up.") and name.endswith(".skip.weight") for name in tensors)
    layer = "stylegan_decoder.style_convs.{}.modulated_conv.{}"
    return FaceShape(
        features=(
            tensors["final_conv.weight"].shape[0],
            *(tensors[f"conv_body_up.{level}.skip.weight"].shape[0] for level in range(levels)),
        ),
        decoded=(
            tensors["stylegan_decoder.constant_input.weight"].shape[1],
            *(tensors[layer.format(2 * level, "weight")].shape[1] for level in range(levels)),
        ),
        style=tensors[layer.format(0, "modulation.weight")].shape[1],
        led=tuple(tensors[f"condition_scale.{level}.2.weight"].shape[0] for level in range(levels)),
    )


@dataclass
class FaceCourse:
    """See Course."""

    total: int
    position: int = 0

    @property
    def finished(self) -> bool:
        """See Course."""
        return self.position >= self.total

    @property
    def name(self) -> str:
        """See Course: no sampler has to do with it."""
        return ""


@dataclass
class RestoringFaces:
    """See InFlight: all faces of one picture; a step is one of them."""

    key: BatchKey
    sampler: FaceCourse
    forwards: int
    """See InFlight."""
    picture: Image.Image | None
    """RGB, as it was sent."""
    size: tuple[int, int]
    """Of that."""
    places: list[Placed]
    restored: list[Image.Image] = field(default_factory=list)

    @property
    def steps_done(self) -> int:
        """See InFlight."""
        return self.sampler.position

    @property
    def steps(self) -> int:
        """See InFlight."""
        return self.sampler.total

    def lay_over(self, enlarged: Image.Image) -> None:
        """Put all faces into the enlarged picture, the smallest in the original first: in front is who is larger."""
        ratios = (enlarged.width / self.size[0], enlarged.height / self.size[1])
        order = sorted(range(len(self.restored)), key=lambda one: -float(np.hypot(*self.places[one].matrix[:, 0])))
        for one in order:
            paste_face(enlarged, self.restored[one], self.places[one], ratios)

    def close(self) -> None:
        """See InFlight."""
        self.picture = None
        self.restored = []


class FaceRestorer:
    """A face network and what finds faces; for use from the device thread only."""

    def __init__(self, network: FaceNetwork, finder: FaceAnnotator) -> None:
        self._network = network
        self._finder = finder
        self._side_px = network.shape.side_px
        parameter = next(network.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._numbers = itertools.count()

    @property
    def size_bytes(self) -> int:
        """See HasSize."""
        tensors = (*self._network.parameters(), *self._network.buffers())
        return self._finder.size_bytes + sum(tensor.nbytes for tensor in tensors)

    def begin(self, picture: Image.Image) -> RestoringFaces:
        """Find the faces; nothing is drawn yet."""
        shrunk = picture.copy()
        shrunk.thumbnail((_FIND_AT_PX, _FIND_AT_PX), Image.Resampling.BOX)
        ratios = (picture.width / shrunk.width, picture.height / shrunk.height)
        faces = self._finder.faces_in(np.asarray(shrunk))
        # Pixels have their place in their middle.
        places = [placed((face.points + 0.5) * ratios - 0.5, self._side_px) for face in faces]
        key = BatchKey(f"faces {next(self._numbers)}", max(1, self._side_px // 8), max(1, self._side_px // 8), 1)
        return RestoringFaces(key, FaceCourse(len(places)), 1, picture, picture.size, places)

    @torch.inference_mode()
    def predict(self, rows: Sequence[RestoringFaces]) -> list[Image.Image]:
        """The next face of each."""
        return [self._restored(row) for row in rows]

    def advance(self, row: RestoringFaces, predicted: Image.Image) -> None:
        """See Model."""
        row.restored.append(predicted)
        row.sampler.position += 1

    def preview(self, row: RestoringFaces, predicted: Image.Image) -> Image.Image | None:  # noqa: ARG002 - see Model
        """See Model: the picture as it was sent."""
        return row.picture

    def _restored(self, row: RestoringFaces) -> Image.Image:
        if row.picture is None:
            raise ValueError("the picture is gone")
        face = np.array(framed(row.picture, row.places[row.sampler.position]))
        pixels = torch.from_numpy(face).to(self._device).permute(2, 0, 1)[None].to(self._dtype) / 127.5 - 1
        drawn: Tensor = self._network(pixels)
        if not torch.isfinite(drawn).all():
            raise ArithmeticError("the face network overflowed")
        colours = ((drawn[0].float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        return Image.fromarray(colours.cpu().numpy())
