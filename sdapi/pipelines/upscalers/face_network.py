"""GFPGAN in its "clean" form, which versions 1.3 and 1.4 were published in: a U-Net that finds what a face is, leading a StyleGAN2 decoder.

Tensor names are those of the published files. Noise is the stored one, so that a picture gives the same result each time.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

_SLOPE = 0.2
_DEMODULATION_EPS = 1e-8
_LEAST_PX = 4
"""The side of what the U-Net ends with and the decoder starts from."""


@dataclass(frozen=True)
class FaceShape:
    """What a network consists of; index i of the channels is for features of 4 * 2^i pixels a side."""

    features: tuple[int, ...]
    """Channels of the U-Net, up to the size of the face (GFPGAN 1.4: 256, 256, 256, 256, 256, 128, 64, 32 for 512 pixels)."""
    decoded: tuple[int, ...]
    """Channels of the decoder."""
    style: int
    """Length of a style."""
    led: tuple[int, ...]
    """How many of the decoder's channels, the last ones, are led by the U-Net, from 8 pixels on."""

    @property
    def side_px(self) -> int:
        """Of the faces it takes and makes."""
        return _LEAST_PX << (len(self.features) - 1)

    @property
    def levels(self) -> int:
        """Doublings."""
        return len(self.features) - 1


class _ResizingBlock(nn.Module):
    def __init__(self, before: int, after: int, factor: float) -> None:
        super().__init__()
        self._factor = factor
        self.conv1 = nn.Conv2d(before, before, 3, padding=1)
        self.conv2 = nn.Conv2d(before, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found = _leaky(self.conv2(_resized(_leaky(self.conv1(x)), self._factor)))
        return found + cast("Tensor", self.skip(_resized(x, self._factor)))


class _StyledWeights(nn.Module):
    """A convolution whose input channels a style makes louder or softer."""

    def __init__(self, before: int, after: int, kernel: int, style: int, *, demodulates: bool) -> None:
        super().__init__()
        self._demodulates = demodulates
        self.modulation = nn.Linear(style, before)
        self.weight = nn.Parameter(torch.empty(1, after, before, kernel, kernel))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        batch, before, height, width = x.shape
        weight = self.weight * self.modulation(style).view(batch, 1, before, 1, 1)
        if self._demodulates:
            # In float32, because squares of half-precision weights vanish.
            weight = weight * torch.rsqrt(weight.float().square().sum((2, 3, 4), keepdim=True) + _DEMODULATION_EPS).to(weight.dtype)
        kernels = weight.flatten(0, 1)
        # Each sample has weights of its own: as groups of one convolution.
        out = nnf.conv2d(x.reshape(1, batch * before, height, width), kernels, padding=weight.shape[-1] // 2, groups=batch)
        return out.view(batch, -1, height, width)


class _StyledLayer(nn.Module):
    def __init__(self, before: int, after: int, style: int, *, doubles: bool) -> None:
        super().__init__()
        self._doubles = doubles
        self.modulated_conv = _StyledWeights(before, after, 3, style, demodulates=True)
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, after, 1, 1))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        x = _resized(x, 2) if self._doubles else x
        return _leaky(self.modulated_conv(x, style) * 2**0.5 + self.weight * noise + self.bias)


class _ToColours(nn.Module):
    def __init__(self, before: int, style: int) -> None:
        super().__init__()
        self.modulated_conv = _StyledWeights(before, 3, 1, style, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, so_far: Tensor | None) -> Tensor:
        colours: Tensor = self.modulated_conv(x, style) + self.bias
        return colours if so_far is None else colours + _resized(so_far, 2)


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, _LEAST_PX, _LEAST_PX))


class _Noises(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        for layer in range(count):
            side = _LEAST_PX << ((layer + 1) // 2)
            self.register_buffer(f"noise{layer}", torch.empty(1, 1, side, side))


class _Decoder(nn.Module):
    def __init__(self, shape: FaceShape) -> None:
        super().__init__()
        self._led = shape.led
        channels = shape.decoded
        self.constant_input = _Constant(channels[0])
        self.style_conv1 = _StyledLayer(channels[0], channels[0], shape.style, doubles=False)
        self.to_rgb1 = _ToColours(channels[0], shape.style)
        pairs = list(itertools.pairwise(channels))
        self.style_convs = nn.ModuleList(
            layer
            for before, after in pairs
            for layer in (_StyledLayer(before, after, shape.style, doubles=True), _StyledLayer(after, after, shape.style, doubles=False))
        )
        self.to_rgbs = nn.ModuleList(_ToColours(after, shape.style) for _, after in pairs)
        self.noises = _Noises(1 + len(self.style_convs))

    def forward(self, styles: Tensor, conditions: list[tuple[Tensor, Tensor]]) -> Tensor:
        """`styles` is (n, layers, style); `conditions` are scale and shift of each doubling."""
        noise = list(self.noises.buffers())
        x = self.style_conv1(self.constant_input.weight.expand(len(styles), -1, -1, -1), styles[:, 0], noise[0])
        picture = self.to_rgb1(x, styles[:, 1], None)
        for level, ((scale, shift), led) in enumerate(zip(conditions, self._led, strict=True)):
            place = 2 * level
            x = self.style_convs[place](x, styles[:, place + 1], noise[place + 1])
            free = x.shape[1] - led
            x = torch.cat((x[:, :free], x[:, free:] * scale + shift), 1)
            x = self.style_convs[place + 1](x, styles[:, place + 2], noise[place + 2])
            picture = self.to_rgbs[level](x, styles[:, place + 3], picture)
        return cast("Tensor", picture)


class FaceNetwork(nn.Module):
    """Makes of a face as it is one as faces are."""

    def __init__(self, shape: FaceShape) -> None:
        super().__init__()
        self.shape = shape
        ups, downs = shape.features, shape.features[::-1]
        self.conv_body_first = nn.Conv2d(3, downs[0], 1)
        self.conv_body_down = nn.ModuleList(_ResizingBlock(*pair, 0.5) for pair in itertools.pairwise(downs))
        self.final_conv = nn.Conv2d(ups[0], ups[0], 3, padding=1)
        self.final_linear = nn.Linear(ups[0] * _LEAST_PX**2, (2 * shape.levels + 2) * shape.style)
        self.conv_body_up = nn.ModuleList(_ResizingBlock(*pair, 2) for pair in itertools.pairwise(ups))
        self.condition_scale, self.condition_shift = (
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(after, after, 3, padding=1), nn.LeakyReLU(_SLOPE), nn.Conv2d(after, led, 3, padding=1))
                for after, led in zip(ups[1:], shape.led, strict=True)
            )
            for _ in range(2)
        )
        self.stylegan_decoder = _Decoder(shape)

    def forward(self, face: Tensor) -> Tensor:
        """(n, 3, side, side) in -1 to 1 becomes the same, about in -1 to 1."""
        features = _leaky(self.conv_body_first(face))
        kept = []
        for block in self.conv_body_down:
            features = block(features)
            kept.append(features)
        features = _leaky(self.final_conv(features))
        styles = self.final_linear(features.flatten(1)).view(len(face), -1, self.shape.style)
        conditions = []
        for block, scale, shift in zip(self.conv_body_up, self.condition_scale, self.condition_shift, strict=True):
            features = block(features + kept.pop())
            conditions.append((scale(features), shift(features)))
        return cast("Tensor", self.stylegan_decoder(styles, conditions))


def _leaky(x: Tensor) -> Tensor:
    return nnf.leaky_relu(x, _SLOPE)


def _resized(x: Tensor, factor: float) -> Tensor:
    return nnf.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
