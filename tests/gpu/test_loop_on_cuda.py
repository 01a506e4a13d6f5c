"""On a CUDA device: steps are measured without waiting for them, and pictures are decoded beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.forwards.cuda_device import CudaStopwatch, SideStream
from sdapi.pipelines.scheduling.decoding import DecodingStage, ThreadedDecoding
from sdapi.pipelines.scheduling.flights import Ending
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket
from tests.pipelines.drawing import Studio, a_request, greatest_difference

from .test_cuda import demo_on_cuda

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_the_stopwatch_tells_what_the_device_took_in_order() -> None:
    device = torch.device("cuda")
    stopwatch, told = CudaStopwatch(device), list[tuple[int, float]]()
    matrix = torch.randn(2048, 2048, device=device)
    for number in range(5):
        stopwatch.timed(lambda: matrix @ matrix, lambda seconds, number=number: told.append((number, seconds)))  # type: ignore[misc]
    torch.cuda.synchronize()
    stopwatch.collect()
    assert [number for number, _ in told] == list(range(5))
    assert all(seconds > 0 for _, seconds in told)


def test_pictures_decoded_on_a_stream_of_their_own_are_the_same() -> None:
    model = demo_on_cuda()
    stream = SideStream(torch.device("cuda"))
    images = []

    def beside(wake: Callable[[], None]) -> DecodingStage[Ending]:
        return ThreadedDecoding(wake, stream.after_what_was_asked)

    for decoding in (None, beside):
        studio = Studio({"demo": model}, decoding_beside=decoding)
        jobs = [studio.ask(a_request(seed=seed, width=128, height=128, steps=8 + seed)) for seed in range(6)]
        studio.draw()
        images.append([job.image for job in jobs])
    assert all(greatest_difference(one, other) <= 24 for one, other in zip(*images, strict=True))


def test_a_device_warms_up_and_keeps_what_it_learnt(tmp_path: Path) -> None:
    folder = embedded_model_dir()
    assert folder is not None
    path = tmp_path / "device-profile.json"
    options = DeviceOptions("cuda", "auto", 0, 16, 2**33, profile_path=path)
    loop = open_loop(Catalog(folder.parent, aliases={}, embedded=folder), Assets(folder.parent), options)
    results: list[Result] = []
    ended = threading.Event()

    def done(result: Result) -> None:
        results.append(result)
        ended.set()

    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.submit(Ticket(1, a_request(), None, threading.Event(), lambda _: None, done))
    assert ended.wait(120)
    while loop._pacing.can_warm_up(loop._shelves.models.models):
        thread.join(0.05)
    loop.stop()
    thread.join()
    assert isinstance(results[0], Pictures)
    assert "demo 8x8 77 tokens" in path.read_text()
    assert path.read_text().count(" tokens") >= 2, "its own size as well"
