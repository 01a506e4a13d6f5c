"""Two networks that see lines, in the layouts their weights are handed round in.

HED ("Holistically-Nested Edge Detection", in the form ControlNet's authors trained anew): a VGG of five blocks, each of which tells
edges at its own scale. Line drawings: the generator of "Learning to generate line drawings that convey geometry and semantics"
(informative-drawings), which redraws a picture as dark lines on white paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdapi.catalog import Refused
from sdapi.domain.control_maps import ControlMap
from sdapi.pipelines.control.annotators import Map, Rgb

NetworkT = TypeVar("NetworkT", bound=nn.Module)

_HED_BLOCKS: Final = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels in, channels out, convolutions."""
_RESIDUAL_BLOCKS: Final = 3
_GRID_PX: Final = 4
"""The line drawing network halves its input twice, and enlarges it again."""


class _HedBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, convolutions: int) -> None:
        super().__init__()
        widths = (channels_in, *(channels_out,) * convolutions)
        self.convs = nn.ModuleList(nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise(widths))
        self.projection = nn.Conv2d(channels_out, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for convolution in self.convs:
            x = functional.relu(convolution(x))
        return x, self.projection(x)


class HedNetwork(nn.Module):
    """(n, 3, h, w) of 0 to 255 to five edge maps (n, 1, ...), each half as large as the one before, before the sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        for number, sizes in enumerate(_HED_BLOCKS, start=1):
            setattr(self, f"block{number}", _HedBlock(*sizes))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """See the class."""
        x, edges = pixels - self.norm, []
        for number in range(1, len(_HED_BLOCKS) + 1):
            if number > 1:
                x = functional.max_pool2d(x, 2)
            x, edge = getattr(self, f"block{number}")(x)
            edges.append(edge)
        return edges


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = (nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels))
        other = (nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels))
        self.conv_block = nn.Sequential(*half, nn.ReLU(), *other)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.conv_block(x)
        return x + added


class LineDrawingNetwork(nn.Module):
    """(n, 3, h, w) of 0 to 1 to (n, 1, h, w) of 0 to 1, dark lines on white; sides are multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 64, 7), nn.InstanceNorm2d(64), nn.ReLU())
        smaller = ((nn.Conv2d(n, 2 * n, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * n), nn.ReLU()) for n in (64, 128))
        self.model1 = nn.Sequential(*(layer for layers in smaller for layer in layers))
        self.model2 = nn.Sequential(*(_Residual(256) for _ in range(_RESIDUAL_BLOCKS)))
        larger = (
            (nn.ConvTranspose2d(n, n // 2, 3, stride=2, padding=1, output_padding=1), nn.InstanceNorm2d(n // 2), nn.ReLU())
            for n in (256, 128)
        )
        self.model3 = nn.Sequential(*(layer for layers in larger for layer in layers))
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(64, 1, 7), nn.Sigmoid())

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        drawn: Tensor = self.model4(self.model3(self.model2(self.model1(self.model0(pixels)))))
        return drawn


class HedAnnotator:
    """Soft outlines; for use from the device thread only."""

    def __init__(self, tensors: Mapping[str, Tensor], *, device: torch.device) -> None:
        """Raises Refused where the tensors aren't such a network's."""
        self._network = _filled(HedNetwork(), tensors, device)
        self.size_bytes = _bytes_of(self._network)

    @torch.inference_mode()
    def map_of(self, _: ControlMap, rgb: Rgb) -> Map:
        """Of the picture's size: the mean of all scales."""
        edges = self._network(_pixels(rgb, self._network.norm.device))
        large = [functional.interpolate(edge, size=rgb.shape[:2], mode="bilinear", align_corners=False) for edge in edges]
        return _grey(torch.sigmoid(torch.stack(large).mean(dim=0)))


class LineArtAnnotator:
    """Lines as a pen would draw them; for use from the device thread only."""

    def __init__(self, tensors: Mapping[str, Tensor], *, device: torch.device) -> None:
        """Raises Refused where the tensors aren't such a network's."""
        self._network = _filled(LineDrawingNetwork(), tensors, device)
        self._device = device
        self.size_bytes = _bytes_of(self._network)

    @torch.inference_mode()
    def map_of(self, _: ControlMap, rgb: Rgb) -> Map:
        """Of the picture's size, white on black."""
        pixels = _pixels(rgb, self._device) / 255.0
        height, width = rgb.shape[:2]
        padded = functional.pad(pixels, (0, -width % _GRID_PX, 0, -height % _GRID_PX), mode="replicate")
        return _grey(1 - self._network(padded)[:, :, :height, :width])


def _filled(network: NetworkT, tensors: Mapping[str, Tensor], device: torch.device) -> NetworkT:
    """The network with these weights, in float32."""
    known = network.state_dict()
    try:
        network.load_state_dict({name: tensors[name] for name in known})
    except KeyError as error:
        raise Refused(f"The weight {error.args[0]} is missing in it.") from error
    except RuntimeError as error:
        raise Refused("Its weights have other shapes than this network's.") from error
    return network.float().eval().requires_grad_(requires_grad=False).to(device)


def _bytes_of(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


def _pixels(rgb: Rgb, device: torch.device) -> Tensor:
    """(1, 3, height, width), 0 to 255."""
    return torch.from_numpy(np.array(rgb, dtype=np.float32)).permute(2, 0, 1)[None].to(device)


def _grey(shades: Tensor) -> Map:
    grey = shades[0, 0].float().clamp(0, 1).cpu().numpy()
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
