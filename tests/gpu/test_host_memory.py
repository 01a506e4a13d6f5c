"""On a CUDA device: models that left it wait in page-locked host memory, and come back from there to the bit, whatever goes on beside."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.unet_forward import ForwardOptions
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.memory.host_copy import HostCopy, let_go, weights_of
from sdapi.pipelines.memory.host_tier import HostTier
from sdapi.pipelines.memory.transfers import CudaTransfers
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket
from tests.pipelines.drawing import Studio, a_request, models_with_a_copy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_with_a_copy(tmp_path_factory.mktemp("models"))


def loaded(models_dir: Path, device: torch.device = CUDA) -> UnetComponents:
    checkpoint = Catalog(models_dir, aliases={}, embedded=embedded_model_dir()).get("copy")
    return load_checkpoint(checkpoint, device=device, dtype=torch.float16)


def test_a_copy_is_page_locked_the_device_gets_its_memory_back_and_the_weights_return_to_the_bit(models_dir: Path) -> None:
    expected = weights_of(loaded(models_dir, torch.device("cpu")).networks)
    parts, transfers = loaded(models_dir), CudaTransfers(CUDA)
    weights = weights_of(parts.networks)
    before = torch.cuda.memory_allocated()
    copy = HostCopy.of(weights, transfers, lambda: True)
    assert copy.is_page_locked
    let_go(weights)
    assert torch.cuda.memory_allocated() <= before - parts.bytes
    copy.restore(weights, transfers)
    assert torch.cuda.memory_allocated() <= before + 2**20
    for weight, one in zip(weights, expected, strict=True):
        assert (weight.device.type, weight.dtype, weight.stride()) == ("cuda", one.dtype, one.stride())
        assert torch.equal(weight.cpu(), one)
    assert parts.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_checkpoints_that_take_turns_are_read_once_and_draw_the_same_to_the_bit(models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog(models_dir, aliases={}, embedded=embedded_model_dir())
    room_for_one = loaded(models_dir, torch.device("cpu")).bytes * 3 // 2
    options = DeviceOptions("cuda", "float16", 0, 4, room_for_one, is_deterministic=True, host_cache_bytes=2**31)
    loop = open_loop(catalog, Assets(models_dir), options)
    thread = threading.Thread(target=loop.run)
    thread.start()

    def drawn(checkpoint: str) -> bytes:
        results: list[Result] = []
        ended = threading.Event()

        def done(result: Result) -> None:
            results.append(result)
            ended.set()

        loop.submit(Ticket(1, a_request(checkpoint=checkpoint, steps=6), None, threading.Event(), lambda _: None, done))
        assert ended.wait(120)
        assert isinstance(results[0], Pictures), results
        return results[0].images[0].tobytes()

    try:
        with caplog.at_level(logging.INFO):
            pictures = [(drawn("demo"), drawn("copy")) for _ in range(3)]
            assert set(loop.models.on_host) == {"demo"}
    finally:
        loop.stop()
        thread.join()
    assert set(pictures) == {pictures[0]}
    assert [record.__dict__["model"] for record in caplog.records if record.getMessage() == "model loaded"] == ["demo", "copy"]


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_what_leaves_and_returns_meanwhile_changes_no_picture_and_breaks_no_recording(models_dir: Path, is_deterministic: bool) -> None:
    folder = embedded_model_dir()
    assert folder is not None
    catalog = Catalog(models_dir, aliases={}, embedded=folder)
    options = DeviceOptions("cuda", "float16", 0, 4, 2**33, is_deterministic=is_deterministic)

    def drawn(beside: Callable[[], None]) -> list[bytes]:
        parts = load_checkpoint(catalog.get("demo"), device=CUDA, dtype=torch.float16)
        loop = open_loop(catalog, Assets(models_dir), options)  # for what it sets of the device
        loop.stop()
        loop.run()
        model = UnetModel("demo", parts, forwarding=ForwardOptions(is_deterministic=is_deterministic))
        studio = Studio({"demo": model})
        jobs = [studio.ask(a_request(seed=1, width=side, height=side, steps=8)) for side in (64, 96, 128)]
        stopped = threading.Event()

        def keep_on() -> None:
            while not stopped.is_set():
                beside()

        other = threading.Thread(target=keep_on)
        other.start()
        studio.draw()
        stopped.set()
        other.join()
        return [job.image.tobytes() for job in jobs]

    host = HostTier(2**31, CudaTransfers(CUDA))
    going = [UnetModel("copy", loaded(models_dir))]

    def leave_and_return() -> None:
        assert host.take((0, "copy"), going.pop(), "1", lambda: None)
        host.wait_until_left()
        returned = host.bring((0, "copy"), "1")
        assert isinstance(returned, UnetModel)
        going.append(returned)
        host.forget((0, "copy"))  # so that every time is a copy

    try:
        pictures = drawn(leave_and_return), drawn(lambda: None)
        if is_deterministic:
            assert pictures[0] == pictures[1]
    finally:
        host.close()
        torch.backends.cudnn.deterministic = False


def test_host_memory_is_given_back_when_it_is_cleared(models_dir: Path) -> None:
    host = HostTier(2**31, CudaTransfers(CUDA))
    assert host.take((0, "copy"), UnetModel("copy", loaded(models_dir)), "1", lambda: None)
    host.wait_until_left()
    held = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    assert held >= host.size_bytes > 0
    host.clear()
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] < held
    host.close()
