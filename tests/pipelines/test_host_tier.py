"""What leaves the device waits in host memory and comes back to the bit; what the budget has no room for is loaded again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.host_copy import HostCopy, layout_of, let_go, weights_of
from sdapi.pipelines.memory.host_tier import HostTier, Packed
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.memory.transfers import PageLockedBlocks

from .leaving import BLOCK_BYTES, Place, PlainTransfers, Small, are_freed, storages

CPU = PlainTransfers(torch.device("cpu"))


@pytest.fixture
def places() -> Iterator[Callable[..., Place]]:
    """Makes places, which are closed in the end."""
    made: list[Place] = []

    def make(**how: object) -> Place:
        made.append(Place(**how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for place in made:
        place.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "sdapi-leaving"]


class Odd(nn.Module):
    """Weights that share memory in every way, in several formats and orders."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = nn.Linear(8, 24, bias=False)
        self.query, self.key = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.query.weight.data, self.key.weight.data = self.joined.weight.data[:8], self.joined.weight.data[8:16]
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last.weight = self.first.weight
        self.picture = nn.Conv2d(4, 6, 3).half()
        self.picture.weight.data = self.picture.weight.data.contiguous(memory_format=torch.channels_last)
        self.flipped = nn.Parameter(torch.randn(5, 7).t())
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.nothing = nn.Parameter(torch.empty(0))
        self.register_buffer("places", torch.arange(7)[2:5].data)
        self.requires_grad_(requires_grad=False)


def test_weights_come_back_to_the_bit_in_their_order_and_share_what_they_shared() -> None:
    network = Odd()
    weights = weights_of([network])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    strides = [weight.stride() for weight in weights]
    gone = storages(network)
    copy = HostCopy.of(weights, CPU, lambda: True)
    let_go(weights)
    assert are_freed(gone), "the device has its memory back, though the network is still there"
    copy.restore(weights, CPU)
    assert all(one is other for one, other in zip(weights_of([network]), weights, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [weight.stride() for weight in weights] == strides
    assert network.last.weight is network.first.weight
    joined = network.joined.weight.untyped_storage().data_ptr()
    assert {each.weight.untyped_storage().data_ptr() for each in (network.query, network.key)} == {joined}
    network.joined.weight.data[0] = 9
    assert bool((network.query.weight[0] == 9).all())


def test_a_copy_knows_the_weights_it_is_of() -> None:
    network = Odd()
    weights = weights_of([network])
    copy = HostCopy.of(weights, CPU, lambda: True)
    let_go(weights)
    copy.restore(weights, CPU)
    assert copy.is_of(weights)
    network.joined.weight.data = network.joined.weight.data.clone()
    assert not copy.is_of(weights)


def test_large_weights_have_a_block_of_their_own_and_small_ones_share_some() -> None:
    sizes = (100, 2**28 + 1, 2**27, 2**27, 512)
    tensors = [torch.empty(0, dtype=torch.uint8, device="meta") for _ in sizes]
    layout = type(layout_of(tensors))((), sizes)
    assert layout.blocks == ((0,), (1,), (2, 3), (4,))
    assert layout.host_bytes == 512 + 2**29 + 2**28 + 512


def test_a_model_that_left_comes_back_without_being_loaded(places: Callable[..., Place]) -> None:
    place = places()
    first = place.use("a")
    weight = first.layer.weight.clone()
    gone = storages(first.layer)
    del first
    place.use("b")
    assert place.waiting == ["a"]
    assert are_freed(gone)
    assert torch.equal(place.use("a").layer.weight, weight)
    assert place.loads == ["a", "b"]


def test_a_load_begins_when_what_left_for_it_has_really_left(places: Callable[..., Place]) -> None:
    place = places()
    gone = storages(place.use("a").layer)
    place.load = lambda name: Small(name + str(are_freed(gone)))
    place.transfers.gate.clear()
    assert place.residency.lease("b") is None
    assert place.transfers.begun.wait(5)
    assert place.residency.lease("b") is None
    assert place.loads == ["a"], "it waits, and not on this thread"
    place.transfers.gate.set()
    assert place.leased("b").name == "bTrue"


def test_others_are_there_while_one_leaves(places: Callable[..., Place]) -> None:
    place = places(budget_bytes=8000)
    place.use("a", "b")
    place.transfers.gate.clear()
    assert place.residency.lease("c") is None
    assert place.residency.lease("b") is not None
    place.transfers.gate.set()


def test_a_request_for_a_model_that_is_just_leaving_gets_it(places: Callable[..., Place]) -> None:
    place = places()
    weight = place.use("a").layer.weight.clone()
    place.transfers.gate.clear()
    assert place.residency.lease("b") is None
    assert place.transfers.begun.wait(5)
    assert place.residency.lease("a") is None
    place.transfers.gate.set()
    assert torch.equal(place.leased("a").layer.weight, weight)
    assert place.loads == ["a", "b"]


def test_leaving_a_second_time_copies_nothing(places: Callable[..., Place]) -> None:
    place = places()
    place.use("a", "b", "a", "b")
    place.settle()
    before = place.transfers.copied_bytes
    place.use("a", "b", "a", "b")
    place.settle()
    back_only = 4 * sum(weight.nbytes for weight in Small("a").layer.parameters())
    assert place.transfers.copied_bytes - before == back_only
    assert place.loads == ["a", "b"]


def test_what_left_longest_ago_is_forgotten_first(places: Callable[..., Place]) -> None:
    place = places(host_bytes=2 * BLOCK_BYTES)
    place.use("a", "b", "c", "d")
    assert place.waiting == ["b", "c"]
    place.use("b")
    place.settle()
    assert place.waiting == ["d"], "which took the place of c, and not of what it left for"
    place.use("a")
    assert place.loads == ["a", "b", "c", "d", "a"]
    assert place.host.size_bytes <= 2 * BLOCK_BYTES


def test_copies_of_models_that_are_on_the_device_are_forgotten_before_those_that_wait(places: Callable[..., Place]) -> None:
    place = places(budget_bytes=8000, host_bytes=2 * BLOCK_BYTES)
    place.use("a", "b", "c", "d")
    place.settle()
    assert place.waiting == ["a", "b"]
    place.leased("b")
    place.leased("e")
    place.settle()
    assert place.waiting == ["c", "d"], "c left in the place of a, d in that of b's copy"


def test_a_model_larger_than_the_budget_leaves_for_good(places: Callable[..., Place]) -> None:
    place = places(host_bytes=BLOCK_BYTES - 1)
    gone = storages(place.use("a").layer)
    place.use("b")
    assert place.waiting == []
    assert are_freed(gone)
    place.use("a")
    assert place.loads == ["a", "b", "a"]


def test_what_idles_for_long_waits_in_host_memory(places: Callable[..., Place]) -> None:
    place = places(budget_bytes=2**30, unload_after_s=1e-9)
    place.use("a")
    place.memory.take_in()
    place.settle()
    assert (place.residency.models, place.waiting) == ([], ["a"])


def test_the_device_gets_back_what_left_by_itself(places: Callable[..., Place]) -> None:
    place = places(budget_bytes=2**30, unload_after_s=1e-9)

    class Large(Small):
        size_bytes = 2**27

    place.load = Large
    place.use("a")
    place.memory.take_in()
    place.settle()
    assert place.events == ["load a", "released"]


def test_a_model_whose_files_changed_meanwhile_is_loaded_again(places: Callable[..., Place]) -> None:
    place = places()
    old = place.use("a").layer.weight.clone()
    place.use("b")
    place.versions["a"] = "2"
    assert not torch.equal(place.use("a").layer.weight, old)
    place.use("b", "a")
    assert place.loads == ["a", "b", "a"]
    place.use("b")
    place.versions["a"] = None
    place.use("a")
    assert place.loads == ["a", "b", "a", "a"], "nor one whose files are gone, of which loading has to tell"


def test_a_model_that_was_replaced_while_it_was_in_use_is_not_taken_for_the_new_one(places: Callable[..., Place]) -> None:
    place = places()
    place.leased("a")
    place.versions["a"] = "2"
    place.residency.release("a")
    place.use("b", "a")
    assert place.loads == ["a", "b", "a"]


def test_clearing_forgets_those_that_wait_and_those_that_are_leaving(places: Callable[..., Place]) -> None:
    place = places()
    place.use("a", "b")
    place.settle()
    place.transfers.gate.clear()
    place.transfers.begun.clear()
    assert place.residency.lease("c") is None
    assert place.transfers.begun.wait(5)
    assert place.memory.clear_host() == BLOCK_BYTES
    place.transfers.gate.set()
    place.leased("c")
    assert (place.waiting, place.host.size_bytes) == ([], 0)


def test_what_is_evicted_by_hand_does_not_wait(places: Callable[..., Place]) -> None:
    place = places(budget_bytes=8000)
    place.use("a", "b", "c", "a")
    place.settle()
    gone = storages(*(model.layer for model in place.residency.models))
    assert place.residency.evict_idle() == 8000
    place.settle()
    assert are_freed(gone)
    assert place.waiting == ["b"]


def test_a_device_without_room_leaves_the_model_where_it_is(places: Callable[..., Place]) -> None:
    place = places()
    weight = place.use("a").layer.weight.clone()
    place.use("b")
    place.transfers.trouble = torch.OutOfMemoryError("no room")
    with pytest.raises(torch.OutOfMemoryError):
        place.leased("a")
    place.transfers.trouble = None
    assert torch.equal(place.leased("a").layer.weight, weight)
    assert place.loads == ["a", "b"]


@pytest.mark.parametrize("trouble", [RuntimeError("CUDA error"), OSError("odd")])
def test_what_can_not_be_brought_back_is_loaded(places: Callable[..., Place], trouble: Exception) -> None:
    place = places()
    place.use("a", "b")
    place.settle()
    place.transfers.trouble = trouble
    place.use("a")
    assert place.loads == ["a", "b", "a"]


def test_what_can_not_be_copied_leaves_for_good(places: Callable[..., Place]) -> None:
    place = places()
    gone = storages(place.use("a").layer)
    place.transfers.trouble = RuntimeError("host memory is full")
    place.use("b")
    place.transfers.trouble = None
    assert (place.waiting, are_freed(gone)) == ([], True)
    place.use("a")
    assert place.loads == ["a", "b", "a"]


def test_models_that_keep_other_than_plain_numbers_or_can_not_be_packed_leave_as_ever() -> None:
    class Quantised(torch.Tensor):
        pass

    @dataclass
    class Plain:
        name: str
        size_bytes: int = 10

    class Unruly(Small):
        def packed(self) -> Packed[Small]:
            raise ValueError("it has too many parts")

    host = HostTier(2**20, CPU)
    quantised = Small("a")
    quantised.layer.weight = nn.Parameter(torch.zeros(4, 4).as_subclass(Quantised), requires_grad=False)
    assert not host.take((0, "a"), quantised, "1", lambda: None)
    assert not host.take((0, "b"), Plain("b"), "1", lambda: None)
    assert not host.take((0, "c"), Unruly("c"), "1", lambda: None)
    residency = Residency(Plain, Memory(0, host=host), version=lambda _: "1")
    for _ in range(2):
        while residency.lease("b") is None:
            residency.memory.wait_for_load(5)
        residency.release("b")
    assert residency.state.on_host == frozenset()
    host.close()
    residency.close()


def test_whatever_is_asked_for_in_whatever_order_every_model_has_its_own_weights(places: Callable[..., Place]) -> None:
    chance = random.Random(7)
    place = places(budget_bytes=8000, host_bytes=3 * BLOCK_BYTES)

    def load(name: str) -> Small:
        model = Small(name)
        model.layer.weight.data.fill_(ord(name) + 256 * int(place.versions.get(name) or 1))
        return model

    place.load = load
    held: list[str] = []
    loaded: dict[str, int] = {}
    for _ in range(400):
        name = chance.choice("abcdef")
        if chance.random() < 0.05 and name not in held:
            place.versions[name] = str(int(place.versions.get(name) or 1) + 1)
        if chance.random() < 0.02:
            place.memory.clear_host()
        model = place.leased(name)
        held.append(name)
        version, letter = divmod(int(model.layer.weight[0, 0]), 256)
        assert letter == ord(name)
        assert bool((model.layer.weight == model.layer.weight[0, 0]).all())
        assert version >= loaded.get(name, 0), "never an older one again"
        loaded[name] = version
        while len(held) > chance.randint(0, 2):
            place.residency.release(held.pop(0))
        assert place.host.size_bytes <= 3 * BLOCK_BYTES
    assert 20 < len(place.loads) < 250


def test_stopping_while_a_model_leaves_does_not_wait_for_all_of_it(places: Callable[..., Place]) -> None:
    place = places()
    place.use("a")
    place.transfers.gate.clear()
    place.residency.lease("b")
    assert place.transfers.begun.wait(5)
    closing = threading.Thread(target=place.close)
    closing.start()
    place.transfers.gate.set()
    closing.join(10)
    assert not closing.is_alive()
    assert place.transfers.copied_bytes < sum(weight.nbytes for weight in Small("a").layer.parameters())
    assert place.host.size_bytes == 0


def test_what_waits_is_told_with_how_long_coming_back_took(places: Callable[..., Place]) -> None:
    place = places()
    place.use("a", "b")
    place.settle()
    state = place.residency.state
    assert (set(state.resident), set(state.on_host), state.host_bytes) == ({"b"}, {"a"}, BLOCK_BYTES)
    place.use("a")
    state = place.residency.state
    assert set(state.return_s) == {"a"}
    assert set(state.load_s) == {"a", "b"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be page-locked here")
def test_where_memory_can_not_be_page_locked_ordinary_memory_does_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    blocks = PageLockedBlocks()
    assert [blocks.block(size).nbytes for size in (10, 20)] == [10, 20]
    assert [record.message for record in caplog.records if "page-locked" in record.message] == [caplog.records[0].message]
