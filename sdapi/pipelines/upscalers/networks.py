"""The two network shapes nearly every published upscaler has: ESRGAN's residual dense blocks, and the compact one of Real-ESRGAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

_SLOPE = 0.2
_RESIDUAL_SHARE = 0.2
"""How much of what a block found is added to what went in."""


@dataclass(frozen=True)
class DenseShape:
    """What a residual dense network consists of (RealESRGAN_x4plus: 64 features, growth 32, 23 blocks, 2 doublings)."""

    features: int
    growth: int
    blocks: int
    doublings: int = 2
    """Of width and height, at the end."""
    unshuffle: int = 1
    """The picture is first folded by so much, its pixels becoming channels: how a network of x4 is one of x2 or x1."""

    @property
    def scale(self) -> int:
        """How much larger the picture becomes."""
        return (1 << self.doublings) // self.unshuffle


@dataclass(frozen=True)
class CompactShape:
    """What a compact network consists of (realesr-general-x4v3: 64 features, 32 convolutions, x4)."""

    features: int
    convolutions: int
    """Between the first and the last."""
    scale: int


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees everything before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (_conv(features + i * growth, growth) for i in range(4))
        self.conv5 = _conv(features + 4 * growth, features)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _leaky(conv(seen))), 1)
        return cast("Tensor", self.conv5(seen)).mul_(_RESIDUAL_SHARE).add_(x)


class _TripleBlock(nn.Module):
    """Three dense blocks in a row."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(features, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.rdb3(self.rdb2(self.rdb1(x)))).mul(_RESIDUAL_SHARE).add_(x)


class DenseNetwork(nn.Module):
    """ESRGAN's generator (Wang et al. 2018), in the layout and with the tensor names of Real-ESRGAN (2021)."""

    def __init__(self, shape: DenseShape) -> None:
        super().__init__()
        self.shape = shape
        self.conv_first = _conv(3 * shape.unshuffle**2, shape.features)
        self.body = nn.Sequential(*(_TripleBlock(shape.features, shape.growth) for _ in range(shape.blocks)))
        self.conv_body = _conv(shape.features, shape.features)
        for number in range(1, shape.doublings + 1):
            self.add_module(f"conv_up{number}", _conv(shape.features, shape.features))
        self.conv_hr = _conv(shape.features, shape.features)
        self.conv_last = _conv(shape.features, 3)

    def forward(self, picture: Tensor) -> Tensor:
        """(n, 3, h, w) in 0 to 1 becomes (n, 3, scale h, scale w), about in 0 to 1. Any h and w, however small."""
        height, width = picture.shape[-2:]
        fold = self.shape.unshuffle
        if fold > 1:
            # What is folded must be divisible; the edge is drawn on, and cut off again below.
            picture = nnf.pad(picture, (0, -width % fold, 0, -height % fold), mode="replicate")
            picture = nnf.pixel_unshuffle(picture, fold)
        features = self.conv_first(picture)
        features = self.conv_body(self.body(features)).add_(features)
        for number in range(1, self.shape.doublings + 1):
            features = _leaky(self.get_submodule(f"conv_up{number}")(nnf.interpolate(features, scale_factor=2.0, mode="nearest")))
        enlarged: Tensor = self.conv_last(_leaky(self.conv_hr(features)))
        return enlarged[..., : height * self.shape.scale, : width * self.shape.scale]

    @property
    def reach_px(self) -> int:
        """How far away a pixel of the input can still matter."""
        return self.shape.unshuffle * (15 * self.shape.blocks + 5)

    @property
    def work_bytes_per_px(self) -> int:
        """What running it takes at once, per pixel of the input in float32: at its widest a few copies of the enlarged features."""
        at_the_end = 4 * self.shape.features * self.shape.scale**2
        within = 3 * (self.shape.features + 5 * self.shape.growth) // self.shape.unshuffle**2
        return 4 * max(at_the_end, within)

    @property
    def flop_per_px(self) -> float:
        """Operations per pixel of the input."""
        trunk = 2.0 * sum(p.numel() for p in self.body.parameters()) / self.shape.unshuffle**2
        return trunk + 2.0 * 9 * self.shape.features**2 * 2.25 * self.shape.scale**2


class CompactNetwork(nn.Module):
    """SRVGGNetCompact of Real-ESRGAN: plain convolutions at the small size, then one shuffle, on top of the picture itself."""

    def __init__(self, shape: CompactShape) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = [_conv(3, shape.features), nn.PReLU(shape.features)]
        for _ in range(shape.convolutions):
            layers += [_conv(shape.features, shape.features), nn.PReLU(shape.features)]
        layers.append(_conv(shape.features, 3 * shape.scale**2))
        self.body = nn.Sequential(*layers)

    def forward(self, picture: Tensor) -> Tensor:
        """See DenseNetwork.forward."""
        found = nnf.pixel_shuffle(self.body(picture), self.shape.scale)
        return found.add_(nnf.interpolate(picture, scale_factor=float(self.shape.scale), mode="nearest"))

    @property
    def reach_px(self) -> int:
        """See DenseNetwork.reach_px."""
        return self.shape.convolutions + 2

    @property
    def work_bytes_per_px(self) -> int:
        """See DenseNetwork.work_bytes_per_px."""
        return 4 * max(4 * self.shape.features, 4 * 3 * self.shape.scale**2)

    @property
    def flop_per_px(self) -> float:
        """See DenseNetwork.flop_per_px."""
        return 2.0 * sum(p.numel() for p in self.body.parameters())


Network = DenseNetwork | CompactNetwork


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return nnf.leaky_relu_(x, _SLOPE)
