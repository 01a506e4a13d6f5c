"""What sorts of work are called, and what is read between measured sizes."""

from __future__ import annotations

import pytest

from sdapi.domain.drawing_speeds import DrawingSpeeds, Measured, WorkSort


@pytest.mark.parametrize(
    "sort",
    [
        WorkSort("demo", 512, 256, 77),
        WorkSort("demo", 512, 256, None),
        WorkSort("a model 8x8 77 tokens", 64, 64, 154, merges_tokens=True),
        WorkSort("m", 1024, 1024, None, merges_tokens=True, is_panorama=True),
    ],
)
def test_a_sort_of_work_is_found_again_by_its_name(sort: WorkSort) -> None:
    assert WorkSort.named(sort.name) == sort


@pytest.mark.parametrize("name", ["", "demo", "demo 16x16", "demo 16x16 many tokens", "demo 16x16 decode twice"])
def test_what_is_no_name_of_a_sort_is_none(name: str) -> None:
    assert WorkSort.named(name) is None
    assert DrawingSpeeds.of_names({name: Measured({1: 1.0}, 1)}).by_sort == {}


@pytest.mark.parametrize(("samples", "seconds"), [(1, 1.0), (2, 1.0), (3, 1.5), (4, 2.0), (8, 4.0)])
def test_a_forward_takes_what_those_beside_it_take(samples: int, seconds: float) -> None:
    assert Measured({2: 1.0, 4: 2.0}, 4).of(samples) == pytest.approx(seconds)
