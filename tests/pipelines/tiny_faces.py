"""Tensors of face networks by the layout of the published file, tiny or of its full size, and the equations they stand for."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

Tensors = dict[str, Tensor]
FULL = (256, 256, 256, 256, 256, 128, 64, 32)
"""GFPGAN 1.4's channels of its U-Net from 4 to 512 pixels; its decoder has twice as many."""
TINY = (8, 8, 8, 6, 4)
"""For faces of 64 pixels."""


def face_tensors(
    features: tuple[int, ...] = TINY, style: int = 16, *, make: Callable[..., Tensor] | None = None, training: bool = True
) -> Tensors:
    """Random ones from `make` (shape); as published with what only training needs."""
    generator = torch.Generator().manual_seed(3)
    make = make or (lambda *shape: torch.randn(shape, generator=generator) * 0.6 / max(1, torch.Size(shape[1:]).numel()) ** 0.5)
    levels, decoded, tensors = len(features) - 1, tuple(2 * count for count in features), Tensors()

    def conv(name: str, after: int, before: int, kernel: int, *, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = make(after, before, kernel, kernel)
        if bias:
            tensors[f"{name}.bias"] = make(after)

    def resizing(name: str, after: int, before: int) -> None:
        conv(f"{name}.conv1", before, before, 3)
        conv(f"{name}.conv2", after, before, 3)
        conv(f"{name}.skip", after, before, 1, bias=False)

    def styled(name: str, after: int, before: int, kernel: int) -> None:
        tensors[f"{name}.modulated_conv.weight"] = make(1, after, before, kernel, kernel)
        tensors[f"{name}.modulated_conv.modulation.weight"] = make(before, style)
        tensors[f"{name}.modulated_conv.modulation.bias"] = make(before)
        tensors[f"{name}.bias"] = make(1, after, 1, 1)
        if kernel == 3:
            tensors[f"{name}.weight"] = make(1)

    conv("conv_body_first", features[-1], 3, 1)
    for level in range(levels):
        resizing(f"conv_body_down.{level}", features[levels - level - 1], features[levels - level])
        resizing(f"conv_body_up.{level}", features[level + 1], features[level])
        for kind in ("scale", "shift"):
            conv(f"condition_{kind}.{level}.0", features[level + 1], features[level + 1], 3)
            conv(f"condition_{kind}.{level}.2", features[level + 1], features[level + 1], 3)
        styled(f"stylegan_decoder.style_convs.{2 * level}", decoded[level + 1], decoded[level], 3)
        styled(f"stylegan_decoder.style_convs.{2 * level + 1}", decoded[level + 1], decoded[level + 1], 3)
        styled(f"stylegan_decoder.to_rgbs.{level}", 3, decoded[level + 1], 1)
        if training:
            conv(f"toRGB.{level}", 3, features[level + 1], 1)
    conv("final_conv", features[0], features[0], 3)
    tensors["final_linear.weight"] = make((2 * levels + 2) * style, features[0] * 16)
    tensors["final_linear.bias"] = make((2 * levels + 2) * style)
    tensors["stylegan_decoder.constant_input.weight"] = make(1, decoded[0], 4, 4)
    styled("stylegan_decoder.style_conv1", decoded[0], decoded[0], 3)
    styled("stylegan_decoder.to_rgb1", 3, decoded[0], 1)
    for layer in range(2 * levels + 1):
        side = 2 ** ((layer + 5) // 2)
        tensors[f"stylegan_decoder.noises.noise{layer}"] = make(1, 1, side, side)
    for layer in range(8 if training else 0):
        tensors[f"stylegan_decoder.style_mlp.{2 * layer + 1}.weight"] = make(style, style)
        tensors[f"stylegan_decoder.style_mlp.{2 * layer + 1}.bias"] = make(style)
    return tensors


def constant_face_tensors(colour: tuple[float, float, float]) -> Tensors:
    """A network that makes every face one colour, -1 to 1: all zeros but the last colours' bias."""
    tensors = {name: torch.zeros_like(tensor) for name, tensor in face_tensors().items()}
    tensors[f"stylegan_decoder.to_rgbs.{len(TINY) - 2}.bias"] = torch.tensor(colour).view(1, 3, 1, 1)
    return tensors


def face_forward(tensors: Tensors, face: Tensor, *, style: int = 16) -> Tensor:
    """The equations, sample by sample and weight by weight, for (1, 3, side, side)."""
    levels = sum(name.startswith("condition_scale.") and name.endswith(".2.weight") for name in tensors)

    def conv(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"{name}.weight"]
        return nnf.conv2d(x, weight, tensors.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def resized(x: Tensor, factor: float) -> Tensor:
        size = [round(side * factor) for side in x.shape[-2:]]
        return nnf.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def block(name: str, x: Tensor, factor: float) -> Tensor:
        inner = leaky(conv(f"{name}.conv2", resized(leaky(conv(f"{name}.conv1", x)), factor)))
        return inner + conv(f"{name}.skip", resized(x, factor))

    def modulated(name: str, x: Tensor, w: Tensor, *, demodulates: bool) -> Tensor:
        name = f"stylegan_decoder.{name}.modulated_conv"
        louder = tensors[f"{name}.modulation.weight"] @ w + tensors[f"{name}.modulation.bias"]
        weight = tensors[f"{name}.weight"][0] * louder[None, :, None, None]
        if demodulates:
            weight = weight / torch.sqrt((weight**2).sum((1, 2, 3), keepdim=True) + 1e-8)
        return nnf.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def layer(name: str, x: Tensor, w: Tensor, number: int) -> Tensor:
        noise = tensors[f"stylegan_decoder.noises.noise{number}"] * tensors[f"stylegan_decoder.{name}.weight"]
        return leaky(modulated(name, x, w, demodulates=True) * 2**0.5 + noise + tensors[f"stylegan_decoder.{name}.bias"])

    def colours(name: str, x: Tensor, w: Tensor) -> Tensor:
        return modulated(name, x, w, demodulates=False) + tensors[f"stylegan_decoder.{name}.bias"]

    x = leaky(conv("conv_body_first", face))
    kept: list[Tensor] = []
    for level in range(levels):
        x = block(f"conv_body_down.{level}", x, 0.5)
        kept.insert(0, x)
    x = leaky(conv("final_conv", x))
    styles = (tensors["final_linear.weight"] @ x.flatten() + tensors["final_linear.bias"]).view(-1, style)
    led = []
    for level in range(levels):
        x = block(f"conv_body_up.{level}", x + kept[level], 2)
        led.append([conv(f"condition_{kind}.{level}.2", leaky(conv(f"condition_{kind}.{level}.0", x))) for kind in ("scale", "shift")])
    out = layer("style_conv1", tensors["stylegan_decoder.constant_input.weight"], styles[0], 0)
    picture = colours("to_rgb1", out, styles[1])
    for level in range(levels):
        out = layer(f"style_convs.{2 * level}", resized(out, 2), styles[2 * level + 1], 2 * level + 1)
        same, changed = out.chunk(2, 1)
        out = torch.cat((same, changed * led[level][0] + led[level][1]), 1)
        out = layer(f"style_convs.{2 * level + 1}", out, styles[2 * level + 2], 2 * level + 2)
        picture = resized(picture, 2) + colours(f"to_rgbs.{level}", out, styles[2 * level + 3])
    return picture
