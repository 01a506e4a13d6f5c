"""When a model will be in memory, and how the part that loads tells what it has."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import pytest

from sdapi.domain.models_in_memory import ModelsInMemory, upscaler_entry, upscaler_id
from sdapi.engine.load_times import EngineState, ready_in_s
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency

NOW_S = 1000.0
SIZES = {"small": 10_000_000, "large": 3_000_000_000}


def ready(model_id: str, state: EngineState) -> float:
    return ready_in_s(model_id, SIZES, state, now_s=NOW_S)


def an_open_engine(*resident: str, loading: dict[str, float] | None = None, load_s: dict[str, float] | None = None) -> EngineState:
    return EngineState(True, NOW_S - 100, ModelsInMemory(frozenset(resident), loading or {}, load_s or {}))


def test_what_is_in_memory_is_ready() -> None:
    assert ready("large", an_open_engine("large")) == 0


def test_a_larger_model_takes_longer_and_an_unknown_one_a_moment() -> None:
    assert ready("large", an_open_engine()) > 10 * ready("small", an_open_engine()) > 0
    assert 0 < ready("never seen", an_open_engine()) < 1


def test_a_load_takes_what_it_took_last_time() -> None:
    assert ready("large", an_open_engine(load_s={"large": 7.0})) == 7.0


def test_how_quickly_one_model_was_read_tells_about_others() -> None:
    slow_disk = an_open_engine("large", load_s={"large": 300.0})
    assert ready("small", slow_disk) > 2 * ready("small", an_open_engine())


def test_a_load_under_way_is_nearly_done_and_one_that_takes_longer_is_not_given_up() -> None:
    took = {"large": 10.0}
    assert ready("large", an_open_engine(loading={"large": NOW_S - 6}, load_s=took)) == pytest.approx(4.0)
    assert ready("large", an_open_engine(loading={"large": NOW_S - 100}, load_s=took)) == pytest.approx(20.0)


def test_loads_come_one_after_another() -> None:
    took = {"large": 10.0, "small": 1.0}
    state = an_open_engine(loading={"large": NOW_S - 6, "small": NOW_S - 5}, load_s=took)
    assert ready("small", state) == pytest.approx(4.0 + 1.0)
    assert ready("other", state) > 5.0


def test_what_waits_in_host_memory_is_back_sooner_than_it_is_loaded() -> None:
    loaded = an_open_engine(load_s={"large": 30.0})
    waiting = replace(loaded, models=replace(loaded.models, on_host=frozenset({"large"})))
    assert 0 < ready("large", waiting) < ready("large", loaded) / 10
    returned = replace(waiting, models=replace(waiting.models, return_s={"large": 2.0}))
    assert ready("large", returned) == 2.0


def test_how_quickly_one_model_came_back_tells_about_others() -> None:
    both = ModelsInMemory(on_host=frozenset(SIZES), return_s={"large": 30.0})
    measured, unmeasured = (EngineState(opened=True, models=models) for models in (both, replace(both, return_s={})))
    assert ready("small", measured) > ready("small", unmeasured) > 0


def test_a_return_under_way_is_nearly_done() -> None:
    models = ModelsInMemory(loading={"large": NOW_S - 1.5}, load_s={"large": 30.0}, on_host=frozenset({"large"}), return_s={"large": 2.0})
    assert ready("large", EngineState(opened=True, models=models)) == pytest.approx(0.5)


def test_before_the_first_picture_the_libraries_have_to_be_imported() -> None:
    cold, opening, warm = EngineState(), EngineState(opening_since_s=NOW_S - 2), an_open_engine()
    assert ready("small", cold) == pytest.approx(ready("small", opening) + 2)
    assert ready("small", opening) > ready("small", warm)


@dataclass
class Weights:
    name: str
    size_bytes: int = 10


def test_the_residency_tells_what_is_there_what_comes_and_how_long_it_took() -> None:
    gate = threading.Event()

    def load(name: str) -> Weights:
        gate.wait(5)
        return Weights(name)

    residency = Residency(load, Memory(10))
    assert residency.state == ModelsInMemory()
    residency.lease("a")
    assert (set(residency.state.resident), set(residency.state.loading)) == (set(), {"a"})
    gate.set()
    while residency.lease("a") is None:
        residency.memory.wait_for_load(5)
    assert (set(residency.state.resident), set(residency.state.loading), set(residency.state.load_s)) == ({"a"}, set(), {"a"})
    assert residency.state.resident_bytes == 10
    residency.release("a")
    while residency.lease("b") is None:
        residency.memory.wait_for_load(5)
    assert set(residency.state.resident) == {"b"}
    residency.close()


def test_a_load_that_failed_is_not_on_its_way_any_more() -> None:
    def load(name: str) -> Weights:
        raise OSError("the file is truncated")

    residency = Residency(load, Memory(10))
    residency.lease("a")
    residency.memory.wait_for_load(5)
    with pytest.raises(OSError, match="truncated"):
        residency.lease("a")
    assert residency.state == ModelsInMemory()
    residency.close()


def test_an_upscaler_is_not_taken_for_a_checkpoint_of_the_same_name() -> None:
    models = ModelsInMemory(load_s={"same": 9.0}).with_upscalers(ModelsInMemory(frozenset({"same"}), load_s={"same": 2.0}))
    state = EngineState(opened=True, models=models)
    waiting = ModelsInMemory(host_bytes=5).with_upscalers(ModelsInMemory(on_host=frozenset({"same"}), host_bytes=2, return_s={"same": 3.0}))

    assert (set(waiting.on_host), waiting.host_bytes, set(waiting.return_s)) == ({upscaler_entry("same")}, 7, {upscaler_entry("same")})
    assert ready_in_s(upscaler_entry("same"), {}, state, now_s=0) == 0
    assert ready_in_s("same", {}, state, now_s=0) == 9
    assert (upscaler_id(upscaler_entry("same")), upscaler_id("same")) == ("same", None)
