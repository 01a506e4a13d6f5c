"""Models on a CUDA device: the same numbers as on the CPU, and no more of the device's memory than the budget allows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket
from tests.pipelines.drawing import a_request, models_with_a_copy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_with_a_copy(tmp_path_factory.mktemp("models"))


def loaded(models_dir: Path, device: str, dtype: torch.dtype = torch.float16) -> UnetComponents:
    checkpoint = Catalog(models_dir, aliases={}, embedded=embedded_model_dir()).get("copy")
    return load_checkpoint(checkpoint, device=torch.device(device), dtype=dtype)


@contextmanager
def running(models_dir: Path, budget_bytes: int) -> Iterator[DrawingLoop]:
    catalog = Catalog(models_dir, aliases={}, embedded=embedded_model_dir())
    loop = open_loop(catalog, Assets(models_dir), DeviceOptions("cuda", "float16", 0, 4, budget_bytes))
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join()


def draw(loop: DrawingLoop, *checkpoints: str) -> None:
    """One picture of each, one after another."""
    for number, checkpoint in enumerate(checkpoints):
        results: list[Result] = []
        ended = threading.Event()

        def done(result: Result, results: list[Result] = results, ended: threading.Event = ended) -> None:
            results.append(result)
            ended.set()

        loop.submit(Ticket(number, a_request(checkpoint=checkpoint, steps=2), None, threading.Event(), lambda _: None, done))
        assert ended.wait(120)
        assert isinstance(results[0], Pictures), results


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_on_the_device_are_those_on_the_cpu(models_dir: Path, dtype: torch.dtype) -> None:
    there, here = loaded(models_dir, "cuda", dtype), loaded(models_dir, "cpu", dtype)
    for network, same in ((there.unet, here.unet), (there.vae, here.vae), (there.text_encoder, here.text_encoder)):
        for (name, weight), expected in zip(network.named_parameters(), same.parameters(), strict=True):
            assert (weight.device.type, weight.dtype) == ("cuda", expected.dtype), name
            assert torch.equal(weight.cpu(), expected), name
    assert there.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_switching_with_room_for_one_takes_no_more_than_one_model(models_dir: Path) -> None:
    model_bytes = loaded(models_dir, "cpu").bytes
    peaks = []
    for checkpoints in (("copy", "copy", "copy"), ("copy", "demo", "copy")):
        with running(models_dir, budget_bytes=model_bytes * 3 // 2) as loop:
            draw(loop, "copy")
            torch.cuda.reset_peak_memory_stats()
            draw(loop, *checkpoints)
            peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0] + model_bytes // 2


def test_what_is_cleared_is_given_back(models_dir: Path) -> None:
    with running(models_dir, budget_bytes=2**33) as loop:
        draw(loop, "copy", "demo")
        before = torch.cuda.memory_allocated()
        cleared = threading.Event()
        loop.clear_caches(lambda _: cleared.set())
        assert cleared.wait(60)
        assert torch.cuda.memory_allocated() <= before - 2 * loaded(models_dir, "cpu").bytes * 9 // 10
