"""How many rows are worth joining is learnt from the forwards that were made, and kept for the next start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdapi.domain.drawing_speeds import Measured, WorkSort
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.profile_file import ProfileFile

MEASURED_MS: dict[str, dict[int, float]] = {
    "128": {1: 5.9, 2: 9.1, 4: 11.1, 8: 15.3, 16: 28, 32: 42},
    "256": {1: 10.4, 2: 15.4, 4: 23, 8: 40, 16: 77, 32: 150},
    "512": {1: 27, 2: 46, 4: 88, 8: 187, 16: 410},
}
"""Of the embedded model's UNet on two cores, by side and samples."""
DEVICE = {"device": "cpu", "dtype": "float32", "threads": "2", "torch": "2.9"}


def profile_of(side: str) -> StepProfile:
    return StepProfile({"s": {samples: ms / 1000 for samples, ms in MEASURED_MS[side].items()}})


@pytest.mark.parametrize(("side", "samples"), [("128", 32), ("256", 8), ("512", 2)])
def test_the_cap_is_where_the_device_gains_no_more(side: str, samples: int) -> None:
    assert profile_of(side).worth("s", least=2, start=8, limit=32) == samples


def test_a_shape_nobody_has_drawn_begins_with_the_usual_cap() -> None:
    assert profile_of("128").worth("other", least=2, start=8, limit=32) == 8


def drawn_under_load(side: str, *, start: int, turns: int = 80) -> tuple[StepProfile, list[int]]:
    """With more rows waiting than ever fit, what the profile makes of the forwards it asks for."""
    profile, asked = StepProfile(), []
    truth = profile_of(side)
    for _ in range(turns):
        samples = profile.worth("s", least=2, start=start, limit=32)
        seconds = truth.seconds("s", samples)
        assert seconds is not None
        profile.learn("s", samples, seconds, units=samples)
        asked.append(samples)
    return profile, asked


@pytest.mark.parametrize(("side", "samples"), [("128", 32), ("256", 8), ("512", 2)])
@pytest.mark.parametrize("start", [2, 8, 32])
def test_load_alone_finds_the_cap_from_wherever_it_begins(side: str, samples: int, start: int) -> None:
    _, asked = drawn_under_load(side, start=start)
    assert asked[-30:].count(samples) >= 28, "but for trying the next size again"


def test_one_stall_of_the_machine_does_not_change_the_cap() -> None:
    profile, _ = drawn_under_load("128", start=8)
    profile.learn("s", 32, 10.0, units=32)
    assert profile.worth("s", least=2, start=8, limit=32) == 32


def test_a_size_that_was_slow_once_is_tried_again() -> None:
    profile = StepProfile({"s": {2: 0.010, 4: 0.012, 8: 0.015}})
    profile.learn("s", 10, 0.2, units=10)
    assert profile.worth("s", least=2, start=8, limit=32) == 16, "ten say little of sixteen"
    for _ in range(3):
        profile.learn("s", 16, 0.2, units=16)
    assert [profile.worth("s", least=2, start=8, limit=32) for _ in range(3)] == [8, 8, 8]
    found = [profile.worth("s", least=2, start=8, limit=32) for _ in range(32)]
    assert found.count(16) == 1, "the machine may have been held up"


def test_a_machine_that_was_busy_while_a_size_was_tried_is_believed_once_it_is_quick() -> None:
    profile, truth = StepProfile({"s": {2: 0.0091}}), profile_of("128")
    asked = []
    for turn in range(200):
        samples = profile.worth("s", least=2, start=8, limit=32)
        seconds = truth.seconds("s", samples)
        assert seconds is not None
        profile.learn("s", samples, seconds * (4 if turn < 10 else 1), units=samples)
        asked.append(samples)
    assert asked[:4] == [4, 4, 4, 2]
    assert asked.count(32) > 50


def test_a_device_that_has_become_slower_is_believed_in_the_end() -> None:
    profile = StepProfile({"s": {2: 0.01}})
    for _ in range(100):
        profile.learn("s", 2, 0.1, units=2)
    assert profile.seconds("s", 2) == pytest.approx(0.1, rel=0.05)


def test_the_first_forward_of_a_size_counts_for_little() -> None:
    profile = StepProfile()
    profile.learn("s", 2, 3.0, units=2)
    profile.learn("s", 2, 0.1, units=2)
    assert profile.seconds("s", 2) == 0.1


def test_seconds_lie_between_those_measured_and_grow_beyond_them() -> None:
    profile = StepProfile({"s": {2: 1.0, 4: 2.0}})
    assert [profile.seconds("s", samples) for samples in (1, 3, 8)] == [1.0, 1.5, 4.0]
    assert profile.seconds("other", 2) is None


def test_what_was_never_measured_costs_by_its_units() -> None:
    profile = StepProfile()
    assert profile.cost_s("s", 2, units=6) == 6
    profile.learn("s", 2, 3.0, units=6)
    assert profile.cost_s("other", 2, units=12) == 6


def test_shapes_drawn_longest_ago_are_forgotten() -> None:
    profile = StepProfile()
    for number in range(300):
        profile.learn(str(number), 1, 1.0, units=1)
        profile.learn("often", 1, 1.0, units=1)
    assert "often" in profile.known
    assert "0" not in profile.known
    assert len(profile.known) == 256


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "data" / "profile.json"
    first = ProfileFile(path, DEVICE)
    profile = first.read()
    profile.learn("s", 2, 0.0123456, units=2)
    first.keep(profile)
    assert not path.exists(), "not at every step"
    first.close(profile)
    assert ProfileFile(path, DEVICE).read().known == {"s": {2: 0.01235}}
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize("changed", list(DEVICE))
def test_a_profile_of_another_device_is_not_used(tmp_path: Path, changed: str) -> None:
    path = tmp_path / "profile.json"
    ProfileFile(path, DEVICE).close(StepProfile({"s": {2: 0.01}}))
    assert ProfileFile(path, {**DEVICE, changed: "another"}).read().known == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({"made_with": DEVICE, "seconds": {"s": {"2": -1}}}).encode(),
        b'{"made_with": {}, "seconds": 3}',
    ],
)
def test_a_broken_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    file = ProfileFile(path, DEVICE)
    assert file.read().known == {}
    file.close(StepProfile({"s": {2: 0.01}}))
    assert ProfileFile(path, DEVICE).read().known == {"s": {2: 0.01}}


def test_a_profile_that_can_not_be_kept_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ProfileFile(tmp_path / "file" / "profile.json", DEVICE).close(StepProfile({"s": {2: 0.01}}))


@pytest.mark.parametrize(("side", "samples"), [("128", None), ("256", 8), ("512", 2)])
def test_others_are_told_what_was_measured_and_how_many_are_worth_joining(side: str, samples: int | None) -> None:
    sort = WorkSort("m", 512, 512, 77)
    truth = {count: ms / 1000 for count, ms in MEASURED_MS[side].items()}
    assert StepProfile({sort.name: truth}).speeds.by_sort == {sort: Measured(truth, samples)}


def test_what_was_learnt_is_told_to_others_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("sdapi.pipelines.scheduling.pacing.time.monotonic", lambda: clock[0])
    sort, profile = WorkSort("m", 512, 512, 77), StepProfile()
    pacing = Pacing(profile)
    profile.learn(sort.name, 2, 0.5, units=2)
    pacing.keep()
    assert not pacing.speeds.by_sort, "not at every step"
    clock[0] = 1.0
    pacing.keep()
    told = pacing.speeds
    assert told.by_sort[sort].seconds == {2: 0.5}
    clock[0] = 2.0
    pacing.keep()
    assert pacing.speeds is told, "nothing was learnt since"
