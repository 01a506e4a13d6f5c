"""Models stay while they are used and leave when the memory is needed."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency


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


@dataclass
class Peak:
    """Loads ten bytes a time, and notes how much was in memory at most."""

    budget_bytes: int
    most_bytes: int = 0

    def __post_init__(self) -> None:
        self.memory = Memory(self.budget_bytes)
        self.residency: Residency[Weights] = Residency(self.load, self.memory, expected_bytes=lambda _: 10)

    def load(self, name: str) -> Weights:
        self.most_bytes = max(self.most_bytes, self.residency.size_bytes + 10)
        return Weights(name)


def test_what_is_idle_leaves_before_what_does_not_fit_beside_it_is_loaded() -> None:
    peak = Peak(budget_bytes=25)
    for name in ("a", "b", "c", "a", "b", "c"):
        leased(peak.residency, name)
        peak.residency.release(name)
    assert peak.most_bytes == 20
    assert len(peak.residency.models) == 2, "as much stays as fits"
    peak.residency.close()


def test_what_is_in_use_does_not_make_room() -> None:
    peak = Peak(budget_bytes=15)
    kept = leased(peak.residency, "a")
    leased(peak.residency, "b")
    assert peak.residency.lease("a") is kept
    assert peak.most_bytes == 20
    peak.residency.close()


def test_what_somebody_waits_for_does_not_make_room_either() -> None:
    peak = Peak(budget_bytes=15)
    kept = leased(peak.residency, "a")
    peak.residency.release("a")
    peak.residency.wanted = frozenset({"a", "b"})
    leased(peak.residency, "b")
    assert peak.residency.lease("a") is kept
    peak.residency.close()


def test_what_left_is_given_back_to_the_system_before_the_load_begins() -> None:
    told: list[str] = []
    memory = Memory(0, release=lambda: told.append("released"))

    def load(name: str) -> Weights:
        told.append(f"load {name}")
        return Weights(name, 2**27)

    residency = Residency(load, memory, expected_bytes=lambda _: 2**27)
    for name in ("a", "b"):
        leased(residency, name)
        residency.wanted = frozenset({name})
        residency.release(name)
        residency.wanted = frozenset()
    assert told == ["load a", "released", "load b"]
    residency.close()


def test_a_second_load_reckons_with_what_the_model_took_before_and_not_with_its_files() -> None:
    memory = Memory(30)
    residency = Residency(lambda name: Weights(name, 20 if name == "large" else 10), memory, expected_bytes=lambda _: 1)
    for name in ("large", "a", "b"):
        leased(residency, name)
        residency.release(name)
    assert {model.name for model in residency.models} == {"a", "b"}
    assert residency.lease("large") is None
    assert [model.name for model in residency.models] == ["b"], "the older one left when loading began"
    leased(residency, "large")
    residency.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_nobody_has_used_for_long_enough_leaves_and_what_is_in_use_stays() -> None:
    clock = Clock()
    memory = Memory(100, unload_after_s=60, clock=clock)
    residency = Residency(Weights, memory)
    for name in ("idle", "used later", "in use"):
        leased(residency, name)
    expire_in_s = [memory.expires_in_s]
    residency.release("idle")
    clock.now_s += 40
    residency.release("used later")
    expire_in_s.append(memory.expires_in_s)
    clock.now_s += 20
    expire_in_s.append(memory.expires_in_s)
    memory.take_in()
    assert {model.name for model in residency.models} == {"used later", "in use"}
    assert [*expire_in_s, memory.expires_in_s] == [None, 20, 0, 40], "none while all are in use"
    clock.now_s += 1000
    memory.take_in()
    assert [model.name for model in residency.models] == ["in use"]
    residency.close()


def test_without_a_limit_nothing_leaves_for_being_old() -> None:
    clock = Clock()
    memory = Memory(100, clock=clock)
    residency = Residency(Weights, memory)
    leased(residency, "a")
    residency.release("a")
    clock.now_s += 10**9
    assert memory.expires_in_s is None
    memory.take_in()
    assert len(residency.models) == 1
    residency.close()
