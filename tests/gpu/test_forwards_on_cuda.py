"""On a CUDA device: recorded forwards, measured attention and pinned sizes say what the network says."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.compiling.compiled_forwards import CompiledForwards
from sdapi.pipelines.compiling.compiler import Compiler
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.attention_choice import CUDA_KERNELS, choose_attention, cuda_attention, measured_seconds
from sdapi.pipelines.forwards.cuda_graphs import CudaRecorder
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.forwards.joined_projections import JoiningChoice, joining_choice
from sdapi.pipelines.forwards.unet_forward import ForwardOptions, Forwards
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from tests.pipelines.drawing import Studio, a_request

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def parts() -> UnetComponents:
    folder = embedded_model_dir()
    assert folder is not None
    return load_checkpoint(Catalog(folder.parent, aliases={}, embedded=folder).get("demo"), device=CUDA, dtype=torch.float16)


def inputs_of(samples: int, seed: int = 0, side: int = 16) -> ForwardInputs:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(samples, 4, side, side, generator=generator).to(CUDA, torch.float16)
    context = torch.randn(samples, 77, 64, generator=generator).to(CUDA, torch.float16)
    return ForwardInputs(latents, torch.full((samples,), 500.0, device=CUDA), context)


def near(one: Tensor, other: Tensor) -> bool:
    return bool((one.float() - other.float()).abs().max() <= 0.02)


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, 2, 5, 16])
def test_a_graph_plays_what_the_network_says_for_other_inputs_than_it_was_recorded_with(parts: UnetComponents, samples: int) -> None:
    forwards = Forwards(lambda told: forward(parts.unet, told), CudaRecorder(CUDA))
    for seed in range(4):
        told = inputs_of(samples, seed)
        assert near(forwards.predict(told), forward(parts.unet, told))
    assert forwards.recorded == 1


@torch.inference_mode()
def test_graphs_of_several_sizes_share_memory_and_are_played_in_any_order(parts: UnetComponents) -> None:
    forwards = Forwards(lambda told: forward(parts.unet, told), CudaRecorder(CUDA))
    cases = [(2, 16), (8, 16), (4, 32), (1, 8), (8, 16), (2, 16), (4, 32), (1, 8)]
    for turn in range(3):
        for samples, side in cases:
            told = inputs_of(samples, seed=turn, side=side)
            assert near(forwards.predict(told), forward(parts.unet, told))
    assert forwards.recorded == 4


@torch.inference_mode()
def test_what_another_thread_does_on_the_device_does_not_break_a_recording(parts: UnetComponents) -> None:
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            torch.randn(1024, 1024).to(CUDA).half()

    loader = threading.Thread(target=load)
    loader.start()
    try:
        forwards = Forwards(lambda told: forward(parts.unet, told), CudaRecorder(CUDA))
        for side in (8, 16, 24, 32):
            for seed in range(3):
                told = inputs_of(2, seed, side)
                assert near(forwards.predict(told), forward(parts.unet, told))
        assert forwards.recorded == 4
    finally:
        ended.set()
        loader.join()


@torch.inference_mode()
def test_clearing_gives_the_memory_back(parts: UnetComponents) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    forwards = Forwards(lambda told: forward(parts.unet, told), CudaRecorder(CUDA))
    for _ in range(3):
        forwards.predict(inputs_of(16, side=64))
    assert torch.cuda.memory_reserved() > before
    assert forwards.clear() > 0
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 2**25


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(2, 8, 4096, 40), (2, 8, 1024, 80), (2, 8, 64, 160), (2, 10, 4096, 64)])
def test_the_chosen_attention_is_at_least_as_fast_as_the_usual_one(parts: UnetComponents, shape: tuple[int, int, int, int]) -> None:
    chosen = cuda_attention(parts.unet).of(shape)
    usual_s = measured_seconds(CUDA_KERNELS["default"], shape, device=CUDA, dtype=torch.float16)
    assert measured_seconds(chosen, shape, device=CUDA, dtype=torch.float16) <= 1.5 * usual_s


@torch.inference_mode()
def test_projections_that_are_joined_by_measurement_say_what_the_three_say(parts: UnetComponents) -> None:
    unet = copy.deepcopy(parts.unet)
    joining = joining_choice(unet)
    choose_attention(unet, cuda_attention(unet), joining)
    forwards = Forwards(lambda told: forward(unet, told), CudaRecorder(CUDA))
    for seed in range(4):
        told = inputs_of(2, seed, side=32)
        assert near(forwards.predict(told), forward(parts.unet, told))
    assert forwards.recorded == 1
    for always in (0.0, 1.0):
        choose_attention(unet, cuda_attention(unet), JoiningChoice(lambda run, always=always: always * run().numel()))  # type: ignore[misc]
        assert near(forward(unet, told), forward(parts.unet, told))


def test_a_deterministic_device_draws_every_picture_to_the_bit_as_if_it_were_alone(parts: UnetComponents) -> None:
    def drawn(*requests: Txt2Img) -> list[bytes]:
        studio = Studio({"demo": UnetModel("demo", parts, forwarding=ForwardOptions(is_deterministic=True))})
        asked = [studio.ask(request) for request in requests]
        studio.draw()
        return [one.image.tobytes() for one in asked]

    torch.backends.cudnn.deterministic = True
    try:
        requests = [a_request(seed=seed, steps=4 + seed, width=128, height=128) for seed in range(5)]
        for request, picture in zip(requests, drawn(*requests), strict=True):
            assert drawn(request) == [picture]
    finally:
        torch.backends.cudnn.deterministic = False


@torch.inference_mode()
def test_a_compiled_forward_is_recorded_and_says_what_the_network_says(parts: UnetComponents, tmp_path: Path) -> None:
    compiler = Compiler(tmp_path)
    forwards = Forwards(lambda told: forward(parts.unet, told), CudaRecorder(CUDA), compiled=CompiledForwards(parts.unet, compiler))
    try:
        for seed in range(25):
            forwards.predict(inputs_of(2, seed))
        compiler.wait(500)
        assert list(tmp_path.glob("*.pt2")), "it was compiled"
        for seed in range(3):
            told = inputs_of(2, seed)
            assert near(forwards.predict(told), forward(parts.unet, told))
        assert forwards.compiled == 1
    finally:
        compiler.close()
