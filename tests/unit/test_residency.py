"""Models stay while they are used and leave when the memory is needed."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from sdapi.pipelines.residency import Residency


@dataclass
class Weights:
    name: str
    size_bytes: int = 10


def leased(residency: Residency[Weights], name: str) -> Weights:
    while (model := residency.lease(name)) is None:
        residency.wait_for_load(5)
    return model


def test_a_model_is_loaded_once_and_found_again() -> None:
    loads: list[str] = []

    def load(name: str) -> Weights:
        loads.append(name)
        return Weights(name)

    residency = Residency(load, budget_bytes=100)
    first = leased(residency, "a")
    residency.release("a")
    assert leased(residency, "a") is first
    assert loads == ["a"]
    residency.close()


def test_the_least_recently_used_model_leaves_first() -> None:
    loads: list[str] = []

    def load(name: str) -> Weights:
        loads.append(name)
        return Weights(name)

    residency = Residency(load, budget_bytes=20)
    for name in ("a", "b", "a", "c", "a", "b"):
        leased(residency, name)
        residency.release(name)
    assert loads == ["a", "b", "c", "b"]
    residency.close()


def test_a_leased_model_stays_whatever_the_budget() -> None:
    residency = Residency(Weights, budget_bytes=5)
    kept = leased(residency, "a")
    leased(residency, "b")
    residency.release("b")
    assert residency.lease("a") is kept
    residency.close()


def test_a_load_in_progress_blocks_nobody() -> None:
    gate = threading.Event()

    def load(name: str) -> Weights:
        if name == "slow":
            gate.wait(5)
        return Weights(name)

    residency = Residency(load, budget_bytes=100)
    assert residency.lease("slow") is None
    assert residency.lease("slow") is None
    gate.set()
    assert leased(residency, "slow").name == "slow"
    residency.close()


def test_a_failed_load_is_told_and_may_be_tried_again() -> None:
    tries: list[str] = []

    def load(name: str) -> Weights:
        tries.append(name)
        if len(tries) == 1:
            raise OSError("the file is truncated")
        return Weights(name)

    residency = Residency(load, budget_bytes=100)
    with pytest.raises(OSError, match="truncated"):
        leased(residency, "a")
    assert leased(residency, "a").name == "a"
    residency.close()
