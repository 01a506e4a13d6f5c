"""Self-attention runs on the kernel that was measured to be fastest, and sees the same."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sdapi.pipelines.forwards.attention_choice import CUDA_KERNELS, AttentionChoice, Kernel, Shape, choose_attention, measured_seconds

from .drawing import demo_parts


class Counted:
    """A kernel that remembers for how many tokens it was called."""

    def __init__(self) -> None:
        self.tokens: set[int] = set()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.tokens.add(query.shape[2])
        weights: Tensor = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return weights @ value


def a_unet() -> Any:
    unet = copy.deepcopy(demo_parts().unet)
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


@torch.inference_mode()
def seen(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, context = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 64, generator=generator)
    output: Tensor = unet(latents, torch.tensor([500.0, 20.0]), context, return_dict=False)[0]
    return output


def test_every_shape_gets_the_fastest_kernel_for_it_and_the_prediction_stays() -> None:
    unet = a_unet()
    expected = seen(unet)
    for_many, for_few = Counted(), Counted()

    def seconds(kernel: Kernel, shape: Shape) -> float:
        return float((kernel is for_few) == (shape[2] >= 64))

    choose_attention(unet, AttentionChoice({"default": for_many, "other": for_few}, seconds))
    assert (seen(unet) - expected).abs().max() <= 1e-5
    assert (for_many.tokens, for_few.tokens) == ({64}, {4, 16})


def test_a_shape_is_measured_once() -> None:
    measured: list[Shape] = []

    def seconds(kernel: Kernel, shape: Shape) -> float:
        measured.append(shape)
        return 1.0

    unet = a_unet()
    choose_attention(unet, AttentionChoice({"default": scaled_dot_product_attention}, seconds))
    seen(unet)
    seen(unet)
    assert len(measured) == len(set(measured)) == 3


def test_kernels_that_can_not_compute_a_shape_or_compute_something_else_are_passed_over() -> None:
    def failing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise RuntimeError("No available kernel. Aborting execution.")

    def wrong(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(query)

    seconds = partial(measured_seconds, device=torch.device("cpu"), dtype=torch.float32)
    choice = AttentionChoice({"failing": failing, "wrong": wrong, "default": scaled_dot_product_attention}, seconds)
    assert choice.of((1, 2, 16, 8)) is scaled_dot_product_attention


@pytest.mark.parametrize("name", sorted(CUDA_KERNELS))
def test_no_kernel_stops_the_drawing_on_a_device_that_has_not_got_it(name: str) -> None:
    seconds = partial(measured_seconds, device=torch.device("cpu"), dtype=torch.float32)
    kernels = {name: CUDA_KERNELS[name], "default": CUDA_KERNELS["default"]}
    assert AttentionChoice(kernels, seconds).of((1, 2, 16, 8)) is CUDA_KERNELS["default"]
