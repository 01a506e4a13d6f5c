"""A call taken step by step runs only while somebody waits for it, and never outlives whoever does."""

from __future__ import annotations

import threading
import time

import pytest

from sdapi.pipelines.whole.stepped_call import Pause, SteppedCall


def three_steps(said: list[str]) -> SteppedCall[str]:
    def call(pause: Pause) -> str:
        for step in range(3):
            said.append(f"step {step}")
            pause()
        said.append("end")
        return "done"

    return SteppedCall(call, name="stepped")


def running() -> bool:
    return any(thread.name == "stepped" for thread in threading.enumerate())


def test_it_runs_one_step_at_a_time_and_not_in_between() -> None:
    said: list[str] = []
    call = three_steps(said)
    assert not running()
    for expected in (["step 0"], ["step 0", "step 1"]):
        call.advance()
        time.sleep(0.01)
        assert said == expected
    assert call.result() == "done"
    assert said == ["step 0", "step 1", "step 2", "end"]
    assert call.ended
    assert not running()
    call.advance()
    call.close()
    assert call.result() == "done"


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_closing_ends_the_thread_wherever_it_is(steps: int) -> None:
    said: list[str] = []
    call = three_steps(said)
    for _ in range(steps):
        call.advance()
    before = list(said)
    call.close()
    call.close()
    assert said == before
    assert call.ended
    assert not running()


def test_what_it_raises_comes_out_where_the_step_was_wanted() -> None:
    def call(pause: Pause) -> str:
        pause()
        raise ArithmeticError("the latents overflowed")

    stepped = SteppedCall(call, name="stepped")
    stepped.advance()
    with pytest.raises(ArithmeticError, match="overflowed"):
        stepped.advance()
    assert not running()
    with pytest.raises(RuntimeError, match="no result"):
        stepped.result()


def test_a_call_that_catches_every_exception_ends_all_the_same() -> None:
    def call(pause: Pause) -> str:
        try:
            pause()
        except Exception:  # noqa: BLE001 - as careless libraries do
            return "went on"
        return "was asked to go on"

    stepped = SteppedCall(call, name="stepped")
    stepped.advance()
    stepped.close()
    assert not running()
    with pytest.raises(RuntimeError):
        stepped.result()
