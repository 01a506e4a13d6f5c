"""On a CUDA device: what is laid over a network is recorded along with it, and played for whoever takes part."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.pipelines.added.loras import Applied, Delta, Lora
from sdapi.pipelines.control.controlnets import Control, ControlNetwork, Sample
from sdapi.pipelines.forwards.attention_choice import choose_attention, cuda_attention
from sdapi.pipelines.forwards.control_forwards import ControlForwards
from sdapi.pipelines.forwards.cuda_graphs import CudaRecorder
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.forwards.overlay import Overlay
from sdapi.pipelines.forwards.unet_forward import Forwards
from sdapi.pipelines.guidance.halves import Words
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.scheduling.row import BatchKey
from tests.pipelines.control_nets import a_control_net_model
from tests.pipelines.lora_files import FEED_FORWARD, OUTPUT

from .test_forwards_on_cuda import CUDA, inputs_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

USES = 9
"""More than a recording waits for."""
KEY = BatchKey("demo", 16, 16, 77)


@pytest.fixture(scope="module")
def parts() -> UnetComponents:
    folder = embedded_model_dir()
    assert folder is not None
    loaded = load_checkpoint(Catalog(folder.parent, aliases={}, embedded=folder).get("demo"), device=CUDA, dtype=torch.float16)
    choose_attention(loaded.unet, cuda_attention(loaded.unet))
    return loaded


def a_lora(parts: UnetComponents, seed: int) -> Lora:
    generator = torch.Generator().manual_seed(seed)

    def delta(path: str) -> Delta:
        outputs, inputs = parts.unet.get_submodule(path).weight.shape
        down, up = torch.randn(4, inputs, generator=generator) / inputs**0.5, torch.randn(outputs, 4, generator=generator) / 4
        return Delta(down.to(CUDA, torch.float16), None, up.to(CUDA, torch.float16), 1.0)

    return Lora(f"lora{seed}", {path: delta(path) for path in (OUTPUT, FEED_FORWARD)}, {})


def residuals_of(parts: UnetComponents, samples: int, seed: int) -> tuple[Tensor, ...]:
    """Of the shapes that control nets add, which a hook on the middle and the skips would see."""
    seen: list[tuple[int, ...]] = []
    blocks = [parts.unet.conv_in, *parts.unet.down_blocks, parts.unet.mid_block]
    hooks = [block.register_forward_hook(lambda _, __, output: seen.extend(_shapes(output))) for block in blocks]
    forward(parts.unet, inputs_of(samples))
    for hook in hooks:
        hook.remove()
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator).to(CUDA, torch.float16) / 4 for shape in seen)


def _shapes(output: Tensor | tuple[Tensor, tuple[Tensor, ...]]) -> list[tuple[int, ...]]:
    tensors = [output] if isinstance(output, Tensor) else output[1]
    return [tuple(tensor.shape) for tensor in tensors]


def near(one: Tensor, other: Tensor) -> bool:
    """Every sample, on the whole: which of two tokens that are nearly alike is merged may depend on the last bit."""
    differences = (one.float() - other.float()).abs().flatten(1).mean(dim=1)
    return bool((differences <= 0.02 * other.float().abs().flatten(1).mean(dim=1)).all())


def assert_played_as_it_is(forwards: Forwards, overlay: Overlay, told: ForwardInputs) -> None:
    assert near(forwards.predict_under(overlay, told), overlay.forward(told))


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, 3, 6])
@pytest.mark.parametrize("feature", ["lora", "perturbed", "merging", "control", "all"])
def test_a_graph_plays_what_is_laid_over_the_network_for_other_inputs_than_it_was_recorded_with(
    parts: UnetComponents, feature: str, samples: int
) -> None:
    forwards = Forwards(partial(forward, parts.unet), CudaRecorder(CUDA))
    has = {feature} if feature != "all" else {"lora", "perturbed", "merging", "control"}
    lora = a_lora(parts, 1)
    for seed in range(USES):
        uses = [(Applied(lora, 0.2 + (seed + place) % 3),) if "lora" in has else () for place in range(samples)]
        perturbed = ["perturbed" in has and (samples == 1 or (seed + place) % 3 == 0) for place in range(samples)]
        overlay = Overlay(parts.unet, replace(KEY, merges_tokens="merging" in has), uses, perturbed)
        told = inputs_of(samples, seed)
        if "control" in has:
            told = replace(told, residuals=residuals_of(parts, samples, seed))
        assert_played_as_it_is(forwards, overlay, told)
    assert forwards.recorded == 1


@torch.inference_mode()
def test_samples_with_and_without_a_lora_share_a_graph_and_strengths_are_no_part_of_it(parts: UnetComponents) -> None:
    forwards = Forwards(partial(forward, parts.unet), CudaRecorder(CUDA))
    lora = a_lora(parts, 1)
    for seed in range(USES + 3):
        uses = [(Applied(lora, 0.1 * (1 + seed)),) if place != seed % 4 else () for place in range(4)]
        assert_played_as_it_is(forwards, Overlay(parts.unet, KEY, uses, [False] * 4), inputs_of(4, seed))
    assert forwards.recorded == 1


@torch.inference_mode()
def test_a_lora_that_came_back_to_other_memory_is_recorded_anew(parts: UnetComponents) -> None:
    forwards = Forwards(partial(forward, parts.unet), CudaRecorder(CUDA))
    for seed in (1, 2, 1):
        lora = a_lora(parts, seed)
        for use in range(USES):
            assert_played_as_it_is(forwards, Overlay(parts.unet, KEY, [(Applied(lora, 1.0),)], [False]), inputs_of(1, use))
        assert forwards.recorded == 1, "the one before has left with its LoRA"
        del lora
        gc.collect()


@torch.inference_mode()
def test_a_control_net_is_played_for_other_inputs_than_it_was_recorded_with(parts: UnetComponents) -> None:
    net = ControlNetwork("net", a_control_net_model(1).to(CUDA, torch.float16))
    recorded, plain = ControlForwards(partial(CudaRecorder, CUDA)), ControlForwards(None)
    for seed in range(5):
        told = inputs_of(3, seed)
        hint = np.random.default_rng(seed).random((128, 128, 3), dtype=np.float32)
        samples = [Sample((Control(net, net.encoded(hint), 0.5 + place, guess_mode=False),), is_unconditional=False) for place in range(3)]
        words = [Words(context) for context in told.context]
        found, expected = (nets.residuals(samples, told, words) for nets in (recorded, plain))
        assert all(near(one, other) for one, other in zip(found, expected, strict=True))
    assert recorded.recorded == 1
