"""Whose turn it is: nobody starves, nobody is held up, and what little somebody wants is soon done."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdapi.pipelines.scheduling.turns import Most, Turn, Turns, Wish


@dataclass(frozen=True)
class Known:
    """A device that takes so long for a forward, and as long again for each sample in it."""

    rows: int = 4
    forward_s: float = 1.0
    sample_s: float = 1.0
    quantum: float = 20.0

    def most(self, batch: str, *, samples_each: int) -> Most:
        return Most(self.rows, self.rows * 4)

    def seconds(self, batch: str, samples: int) -> float:
        return self.forward_s + self.sample_s * samples


@dataclass
class Row:
    number: int
    client: str
    batch: str
    steps: int
    samples: int = 2
    comes_at: int = 0
    """Turn."""
    turns: list[int] = field(default_factory=list)
    """In which it stepped; the last is its decode."""

    @property
    def wish(self) -> Wish[str]:
        is_last = len(self.turns) == self.steps
        batch = f"decode {self.number}" if is_last else self.batch
        return Wish(self.number, self.client, batch, 1 if is_last else self.samples, self.steps - len(self.turns), is_last)

    @property
    def is_done(self) -> bool:
        return len(self.turns) > self.steps


def play(rows: Sequence[Row], known: Known, *, watch: Callable[[Turn[str], list[Row]], None] = lambda *_: None) -> list[float]:
    """Take turns until everything is done; how much time had passed at the end of each."""
    turns: Turns[str] = Turns()
    ends: list[float] = []
    while not all(row.is_done for row in rows):
        there = [row for row in rows if row.comes_at <= len(ends) and not row.is_done]
        turn = turns.next([row.wish for row in there], known)
        if turn is None:
            ends.append(ends[-1] if ends else 0.0)
            continue
        watch(turn, there)
        chosen = {wish.row for wish in turn.wishes}
        for row in there:
            if row.number in chosen:
                row.turns.append(len(ends))
        cost = known.seconds(turn.batch, turn.samples)
        turns.charge(turn, cost)
        ends.append((ends[-1] if ends else 0.0) + cost)
        assert len(ends) < 5000, "it never ends"
    return ends


def job(client: str, steps: int, *, batch: str = "a", comes_at: int = 0) -> Row:
    return Row(0, client, batch, steps, comes_at=comes_at)


def numbered(*rows: Row) -> list[Row]:
    return [replace(row, number=number, turns=[]) for number, row in enumerate(rows)]


some_rows = st.lists(
    st.builds(
        Row,
        number=st.just(0),
        client=st.sampled_from(["ann", "bob", "cat"]),
        batch=st.sampled_from(["small", "large", "whole"]),
        steps=st.integers(1, 12),
        samples=st.integers(1, 3),
        comes_at=st.integers(0, 20),
    ),
    min_size=1,
    max_size=14,
)
some_device = st.builds(
    Known,
    rows=st.integers(1, 6),
    forward_s=st.sampled_from([0.0, 1.0, 5.0]),
    sample_s=st.sampled_from([0.1, 1.0]),
    quantum=st.sampled_from([1.0, 20.0]),
)


@settings(max_examples=60, deadline=None)
@given(some_rows, some_device)
def test_every_row_ends_and_no_turn_takes_more_than_it_may(rows: list[Row], known: Known) -> None:
    def watch(turn: Turn[str], there: list[Row]) -> None:
        assert 1 <= len(turn.wishes) <= known.rows
        assert len({(wish.batch, wish.is_last) for wish in turn.wishes}) == 1

    play(numbered(*rows), known, watch=watch)


@settings(max_examples=60, deadline=None)
@given(some_rows, some_device)
def test_two_decodes_never_follow_each_other_while_somebody_could_step(rows: list[Row], known: Known) -> None:
    was_decode = False

    def watch(turn: Turn[str], there: list[Row]) -> None:
        nonlocal was_decode
        assert not (was_decode and turn.is_last and any(not row.wish.is_last for row in there))
        was_decode = turn.is_last

    play(numbered(*rows), known, watch=watch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4), st.data())
def test_no_row_is_passed_over_for_more_than_five_rounds(steps: list[int], places: int, data: st.DataObject) -> None:
    coming = [data.draw(st.integers(0, 40)) for _ in steps]
    rows = numbered(*(job("ann", count, comes_at=at) for count, at in zip(steps, coming, strict=True)))
    waited = dict.fromkeys(range(len(rows)), 0)

    def watch(turn: Turn[str], there: list[Row]) -> None:
        if turn.is_last:
            return
        rounds = math.ceil(len(rows) / places)
        for row in there:
            waited[row.number] = 0 if any(wish.row == row.number for wish in turn.wishes) else waited[row.number] + 1
            assert row.is_done or row.wish.is_last or waited[row.number] <= 5 * rounds

    play(rows, Known(rows=places), watch=watch)


@settings(max_examples=60, deadline=None)
@given(some_rows, some_device)
def test_no_client_waits_while_others_get_more_than_their_quanta(rows: list[Row], known: Known) -> None:
    """Whatever the others ask for, of one who wants something they get two quanta each, and some turns, before it has one."""
    rows = numbered(*rows)
    waited: dict[str, float] = {}
    largest = known.seconds("", known.rows * 4)

    def watch(turn: Turn[str], there: list[Row]) -> None:
        present = {row.client for row in there}
        cost = known.seconds(turn.batch, turn.samples)
        served = {wish.client for wish in turn.wishes}
        for client in ("ann", "bob", "cat"):
            waited[client] = 0.0 if client in served or client not in present else waited.get(client, 0.0) + cost
            assert waited[client] <= 2 * (known.quantum + 3 * largest) * 3 + 3 * largest

    play(rows, known, watch=watch)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3)), min_size=2, max_size=8))
def test_batches_of_one_client_share_the_device_evenly(asked: list[tuple[str, int]]) -> None:
    rows = numbered(*(replace(job("ann", 40, batch=batch), samples=samples) for batch, samples in asked))
    known = Known()
    had = {batch: 0.0 for batch, _ in asked}
    largest = known.seconds("", 16)

    def watch(turn: Turn[str], there: list[Row]) -> None:
        if turn.is_last or any(row.wish.is_last or row.turns[40:] for row in rows):
            return  # as long as all of them want to step
        had[turn.batch] += known.seconds(turn.batch, turn.samples)
        assert max(had.values()) - min(had.values()) <= 2 * largest

    play(rows, known, watch=watch)


def test_the_job_that_has_least_left_goes_first_where_not_all_fit() -> None:
    rows = numbered(job("ann", 50), job("ann", 50), job("ann", 10, comes_at=3))
    play(rows, Known(rows=1))
    short = rows[2]
    assert short.turns[-1] < min(rows[0].turns[-1], rows[1].turns[-1])
    assert short.turns[-1] - short.comes_at <= 13, "eleven turns of its own, and one of a long one that was overdue"


def test_one_job_beside_forty_of_another_client_is_delayed_by_less_than_its_own_time() -> None:
    known = Known(rows=16, forward_s=2.0, sample_s=1.0, quantum=64)
    alone = play(numbered(job("light", 20)), known)[-1]
    heavy = [job("heavy", 20, batch=batch) for batch in ("a", "b") for _ in range(20)]
    for batch in ("a", "c"):
        for comes_at in (0, 7, 45):
            rows = numbered(*heavy, job("light", 20, batch=batch, comes_at=comes_at))
            ends = play(rows, known)
            light = rows[-1]
            came_s = ends[comes_at - 1] if comes_at else 0.0
            assert ends[light.turns[-1]] - came_s < 2 * alone
            done_before = sum(row.turns[-1] < light.turns[-1] for row in rows[:-1])
            assert done_before <= 20, "the light one does not wait for the others to end"


def had(
    rows: list[Row], known: Known, *, turns: int, ended: Callable[[Row, list[Row]], None] = lambda *_: None
) -> list[defaultdict[str, float]]:
    """What each client has had of the device, after each of so many turns. `ended` is told of rows that are done, and may add others."""
    order: Turns[str] = Turns()
    so_far: list[defaultdict[str, float]] = [defaultdict(float)]
    for number in range(turns):
        there = [row for row in rows if row.comes_at <= number and not row.is_done]
        turn = order.next([row.wish for row in there], known)
        assert turn is not None
        cost = known.seconds(turn.batch, turn.samples)
        order.charge(turn, cost)
        so_far.append(so_far[-1].copy())
        seated = {wish.row: wish for wish in turn.wishes}
        for row in [row for row in there if row.number in seated]:
            so_far[-1][row.client] += cost * seated[row.number].samples / turn.samples
            row.turns.append(number)
            if row.is_done:
                ended(row, rows)
    return so_far


def test_clients_that_always_come_back_are_charged_for_what_they_had() -> None:
    def comes_back(row: Row, rows: list[Row]) -> None:
        rows.append(replace(row, number=len(rows), turns=[], comes_at=row.turns[-1] + 2))

    rows = numbered(*(job("busy", 10_000) for _ in range(2)), *(job(client, 5, batch="b") for client in "xyz"))
    last = had(rows, Known(), turns=600, ended=comes_back)[-1]
    assert last["busy"] > 0.08 * sum(last.values()), "each of the three gets twice as much as one with two rows, and none of them more"


def test_newcomers_without_end_do_not_keep_anybody_from_the_device() -> None:
    def another(row: Row, rows: list[Row]) -> None:
        rows.append(replace(row, number=len(rows), client=f"client {len(rows)}", turns=[]))

    rows = numbered(job("busy", 10_000), *(job(f"client {number}", 5, batch="b") for number in range(3)))
    known = Known()
    so_far = had(rows, known, turns=800, ended=another)
    largest = known.seconds("", 16)
    waited = 0.0
    for before, after in pairwise(so_far):
        waited = 0.0 if after["busy"] > before["busy"] else waited + sum(after.values()) - sum(before.values())
        assert waited <= 2 * (known.quantum + 3 * largest) * 4 + 2 * largest


@pytest.mark.parametrize("comes_at", [0, 90])
def test_equal_clients_get_equal_parts_from_when_both_are_there(comes_at: int) -> None:
    """Whoever comes late has no credit for that, and whoever's job is shorter gets ahead by a quantum at most."""
    rows = numbered(*[job("ann", 10_000, batch="a")] * 3, *[job("bob", 500, batch="b", comes_at=comes_at)] * 3)
    known = Known(rows=2)
    so_far = had(rows, known, turns=400)
    lead = [both["bob"] - both["ann"] for both in so_far[comes_at:]]
    largest = known.seconds("", 4)
    assert max(lead) - min(lead) <= known.quantum + 2 * largest


def test_who_has_one_row_gets_three_times_as_much_as_who_has_many() -> None:
    rows = numbered(*[job("busy", 10_000)] * 8, job("quiet", 10_000, batch="b"))
    last = had(rows, Known(quantum=1), turns=600)[-1]
    assert 0.7 < last["quiet"] / sum(last.values()) < 0.8


def test_company_is_taken_as_long_as_nobody_loses_by_it() -> None:
    """With as many clients as rows a full forward is quicker for everybody than one after another."""
    known = Known(rows=16, forward_s=20.0, sample_s=1.0)
    rows = numbered(*(job(f"client {number}", 4) for number in range(16)))
    sizes: list[int] = []
    play(rows, known, watch=lambda turn, _: None if turn.is_last else sizes.append(len(turn.wishes)))
    assert min(sizes) == 16
    slow = Known(rows=16, forward_s=0.0, sample_s=1.0)
    two = numbered(*(job("heavy", 4) for _ in range(15)), job("light", 4))
    turns: list[Turn[str]] = []
    play(two, slow, watch=lambda turn, _: turns.append(turn))
    assert [len(turn.wishes) for turn in turns[:5] if any(wish.client == "light" for wish in turn.wishes)] == [1] * 5


def test_decodes_are_few_at_a_time_while_others_step_and_many_when_nobody_does() -> None:
    turns: Turns[str] = Turns()
    known = Known(rows=16, forward_s=2.0, sample_s=1.0)
    ended = [Wish(number, "ann", "decode", 1, 0.0, is_last=True) for number in range(8)]
    stepping = Wish(99, "ann", "a", 2, 30.0)
    beside = turns.next([*ended, stepping], known)
    assert beside is not None
    assert beside.is_last
    assert len(beside.wishes) == 2, "no longer than one and a half decodes"
    alone = Turns[str]().next(ended, known)
    assert alone is not None
    assert len(alone.wishes) == 8
