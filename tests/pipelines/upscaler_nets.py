"""Small upscalers of every published layout, and what they compute written down a second time, straight from the papers."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as nnf
from torch import Tensor

Tensors = dict[str, Tensor]


def dense_tensors(*, features: int = 8, growth: int = 4, blocks: int = 1, channels: int = 3, seed: int = 0) -> Tensors:
    """RRDBNet in Real-ESRGAN's names, with weights that let every layer matter."""
    random = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}

    def conv(name: str, before: int, after: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(after, before, 3, 3, generator=random) * (1.2 / (9 * before)) ** 0.5
        tensors[f"{name}.bias"] = torch.randn(after, generator=random) * 0.05

    conv("conv_first", channels, features)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for number in range(1, 6):
                after = features if number == 5 else growth
                conv(f"body.{block}.rdb{dense}.conv{number}", features + (number - 1) * growth, after)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, features, features)
    conv("conv_last", features, 3)
    tensors["conv_last.weight"] *= 0.3
    tensors["conv_last.bias"] += 0.5
    return tensors


def dense_forward(tensors: Tensors, picture: Tensor, *, unshuffle: int = 1) -> Tensor:
    """Equations of ESRGAN (Wang et al. 2018) and the folded input of Real-ESRGAN (Wang et al. 2021)."""

    def conv(name: str, x: Tensor) -> Tensor:
        return nnf.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)

    def slope(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    first = conv("conv_first", nnf.pixel_unshuffle(picture, unshuffle) if unshuffle > 1 else picture)
    x = first
    for block in range(sum(name.endswith("rdb1.conv1.weight") for name in tensors)):
        entered = x
        for dense in (1, 2, 3):
            seen = [x]
            for number in (1, 2, 3, 4):
                seen.append(slope(conv(f"body.{block}.rdb{dense}.conv{number}", torch.cat(seen, 1))))
            x = x + 0.2 * conv(f"body.{block}.rdb{dense}.conv5", torch.cat(seen, 1))
        x = entered + 0.2 * x
    x = first + conv("conv_body", x)
    for name in ("conv_up1", "conv_up2"):
        x = slope(conv(name, x.repeat_interleave(2, -1).repeat_interleave(2, -2)))
    return conv("conv_last", slope(conv("conv_hr", x)))


def compact_tensors(*, features: int = 8, convolutions: int = 3, scale: int = 4, seed: int = 0) -> Tensors:
    """SRVGGNetCompact in its own names."""
    random = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    sides = [3, *[features] * (convolutions + 1), 3 * scale**2]
    for number, (before, after) in enumerate(pairwise(sides)):
        place = 2 * number
        tensors[f"body.{place}.weight"] = torch.randn(after, before, 3, 3, generator=random) * (1.5 / (9 * before)) ** 0.5
        tensors[f"body.{place}.bias"] = torch.randn(after, generator=random) * 0.02
        if number <= convolutions:
            tensors[f"body.{place + 1}.weight"] = torch.rand(after, generator=random) * 0.5
    tensors[f"body.{2 * convolutions + 2}.weight"] *= 0.3
    return tensors


def compact_forward(tensors: Tensors, picture: Tensor, *, convolutions: int, scale: int) -> Tensor:
    """Convolutions with learned slopes, then every pixel's channels laid out as a square, on top of the enlarged picture."""
    x = picture
    for place in range(0, 2 * convolutions + 2, 2):
        x = nnf.conv2d(x, tensors[f"body.{place}.weight"], tensors[f"body.{place}.bias"], padding=1)
        x = torch.where(x > 0, x, tensors[f"body.{place + 1}.weight"].view(1, -1, 1, 1) * x)
    last = 2 * convolutions + 2
    x = nnf.conv2d(x, tensors[f"body.{last}.weight"], tensors[f"body.{last}.bias"], padding=1)
    n, _, height, width = x.shape
    squares = x.view(n, 3, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3).reshape(n, 3, height * scale, width * scale)
    return squares + picture.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def in_first_layout(tensors: Tensors) -> Tensors:
    """The same network as ESRGAN's first files name it: `model.1.sub.0.RDB1.conv1.0.weight`."""
    blocks = sum(name.endswith("rdb1.conv1.weight") for name in tensors)
    places = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", "conv_up1": "model.3", "conv_up2": "model.6"}
    places |= {"conv_hr": "model.8", "conv_last": "model.10"}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "body":
            _, block, dense, conv, end = parts
            renamed[f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{end}"] = tensor
        else:
            renamed[f"{places[parts[0]]}.{parts[1]}"] = tensor
    return renamed


def in_second_layout(tensors: Tensors) -> Tensors:
    """As ESRGAN's later files name it: `RRDB_trunk.0.RDB1.conv1.weight`."""
    places = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        new = f"RRDB_trunk.{rest.replace('rdb', 'RDB')}" if first == "body" else f"{places.get(first, first)}.{rest}"
        renamed[new] = tensor
    return renamed
