"""What runs beside the device thread leaves no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sdapi.pipelines.memory.passing_thread import PassingThread

NAME = "a-passing-thread"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture
def worker() -> Iterator[PassingThread]:
    made = PassingThread(NAME)
    yield made
    made.shutdown()


def test_no_thread_is_left_once_the_work_is_done(worker: PassingThread) -> None:
    assert [worker.submit(pow, 2, power).result(timeout=10) for power in range(3)] == [1, 2, 4]
    for thread in threads():
        thread.join(10)
    assert threads() == []
    assert worker.submit(pow, 2, 5).result(timeout=10) == 32


def test_work_is_done_one_after_another_in_its_order(worker: PassingThread) -> None:
    done: list[int] = []
    first_may_end = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            first_may_end.wait(10)
        done.append(number)

    pending = [worker.submit(work, number) for number in range(5)]
    assert len(threads()) == 1
    first_may_end.set()
    for one in pending:
        one.result(timeout=10)
    assert done == [0, 1, 2, 3, 4]


def test_what_one_raises_is_told_to_whoever_waits_for_it_alone(worker: PassingThread) -> None:
    failing, working = worker.submit(int, "x"), worker.submit(int, "7")
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(timeout=10)
    assert working.result(timeout=10) == 7


def test_after_shutdown_what_had_not_begun_is_cancelled_and_nothing_more_is_taken() -> None:
    worker = PassingThread(NAME)
    may_end, begun = threading.Event(), threading.Event()

    def first() -> str:
        begun.set()
        may_end.wait(10)
        return "ended"

    running, waiting = worker.submit(first), worker.submit(str, "never")
    begun.wait(10)
    threading.Timer(0.05, may_end.set).start()
    worker.shutdown(wait=True, cancel_futures=True)
    assert running.result(timeout=10) == "ended"
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        worker.submit(str, "late")
