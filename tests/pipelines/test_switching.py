"""Models that don't fit together take turns: one leaves before the other is loaded, unless somebody waits for it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket

from .device import Wish, open_device
from .drawing import a_request, demo_parts, models_with_a_copy


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_with_a_copy(tmp_path_factory.mktemp("models"))


@pytest.fixture
def room_for_one() -> int:
    return demo_parts().bytes * 3 // 2


def what_happened(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.getMessage().removeprefix('model ')} {record.__dict__['model']}"
        for record in caplog.records
        if record.getMessage() in ("model loaded", "model evicted")
    ]


def test_the_one_that_is_idle_leaves_before_the_other_is_loaded(
    models_dir: Path, room_for_one: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), open_device(models_dir, cache_bytes=room_for_one) as device:
        wishes = [Wish(a_request(checkpoint=checkpoint, steps=1)) for checkpoint in ("demo", "copy", "demo")]
        device.draw(*wishes)
    assert all(isinstance(wish.result, Pictures) for wish in wishes)
    assert what_happened(caplog) == ["loaded demo", "evicted demo", "loaded copy", "evicted copy", "loaded demo"]


def test_one_that_somebody_waits_for_stays(models_dir: Path, room_for_one: int, caplog: pytest.LogCaptureFixture) -> None:
    """Both are asked for when a picture has ended, so that the first model is idle, and wanted, when the second has to be loaded."""
    results: list[Result] = []
    all_there = threading.Semaphore(0)

    def done(result: Result) -> None:
        results.append(result)
        all_there.release()

    with caplog.at_level(logging.INFO), open_device(models_dir, cache_bytes=room_for_one) as device:

        def submit(job_id: int, checkpoint: str) -> None:
            device.loop.submit(Ticket(job_id, a_request(checkpoint=checkpoint, steps=1), None, threading.Event(), lambda _: None, done))

        def done_and_ask_for_both(result: Result) -> None:
            done(result)
            submit(2, "copy")
            submit(3, "demo")

        device.loop.submit(Ticket(1, a_request(steps=1), None, threading.Event(), lambda _: None, done_and_ask_for_both))
        for _ in range(3):
            assert all_there.acquire(timeout=60)
    assert all(isinstance(result, Pictures) for result in results)
    assert what_happened(caplog).count("loaded demo") == 1
