"""Models stay while they are used and leave when the memory is needed."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from sdapi.pipelines.memory import Memory
from sdapi.pipelines.residency import Residency


@dataclass
class Weights:
    name: str
    size_bytes: int = 10


def leased(residency: Residency[Weights], name: str) -> Weights:
    while (model := residency.lease(name)) is None:
        residency.memory.wait_for_load(5)
    return model


def test_a_model_is_loaded_once_and_found_again() -> None:
    loads: list[str] = []

    def load(name: str) -> Weights:
        loads.append(name)
        return Weights(name)

    residency = Residency(load, Memory(100))
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

    residency = Residency(load, Memory(20))
    for name in ("a", "b", "a", "c", "a", "b"):
        leased(residency, name)
        residency.release(name)
    assert loads == ["a", "b", "c", "b"]
    residency.close()


def test_a_leased_model_stays_whatever_the_budget() -> None:
    residency = Residency(Weights, Memory(5))
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

    residency = Residency(load, Memory(100))
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

    residency = Residency(load, Memory(100))
    with pytest.raises(OSError, match="truncated"):
        leased(residency, "a")
    assert leased(residency, "a").name == "a"
    residency.close()


def test_things_of_several_kinds_share_one_budget_and_the_least_recently_used_of_all_leaves_first() -> None:
    memory = Memory(30)
    models, nets = Residency(Weights, memory), Residency(Weights, memory)
    for residency, name in ((models, "m"), (nets, "n"), (models, "o"), (models, "m")):
        leased(residency, name)
        residency.release(name)
    leased(nets, "p")
    assert [model.name for model in models.models] == ["m", "o"]
    assert [net.name for net in nets.models] == ["p"], "the net n was used longest ago"
    leased(nets, "q")
    assert [model.name for model in models.models] == ["m"]
    for residency in (models, nets):
        residency.close()


def test_what_left_is_told_once_there_is_enough_of_it() -> None:
    memory = Memory(0)
    residency = Residency(Weights, memory)
    for _ in range(2):
        assert not memory.take_let_go(at_least_bytes=15)
        leased(residency, "a")
        residency.release("a")
    assert memory.take_let_go(at_least_bytes=15)
    assert not memory.take_let_go(at_least_bytes=15)
    residency.close()


def test_what_came_in_vain_counts_and_what_failed_in_vain_is_tried_again() -> None:
    tries: list[str] = []

    def load(name: str) -> Weights:
        tries.append(name)
        if tries == ["bad"]:
            raise OSError("the file is truncated")
        return Weights(name)

    memory = Memory(10)
    residency = Residency(load, memory)
    for name in ("bad", "a", "b"):
        residency.lease(name)
    while len(tries) < 3 or any(not future.done() for future in residency._loading.values()):
        memory.wait_for_load(5)
    memory.take_in()
    assert [model.name for model in residency.models] == ["b"], "one of the two had to leave"
    assert leased(residency, "bad").name == "bad"
    residency.close()
