"""Batches that ran out of memory become smaller, at once and for the turns to come, and larger again when there may be more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.memory.shortage import is_out_of_memory
from sdapi.pipelines.scheduling.caps import Batch, Caps
from sdapi.pipelines.scheduling.decoding import DecodingStage, ThreadedDecoding
from sdapi.pipelines.scheduling.flights import Ending
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.room import Room
from sdapi.pipelines.scheduling.row import BatchKey, Row
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
BATCH = Batch(BatchKey("demo", 8, 8, 77), is_joint=True)


class ShortOfMemory(UnetModel):
    """The real model on a device that has room for so many rows at once; keeps a tally of what was tried."""

    def __init__(self, rows: int, *, decodes: int = 100, error: Exception = NO_MEMORY) -> None:
        super().__init__("demo", demo_parts())
        self.room = rows
        self._decodes = decodes
        self._error = error
        self.tried: list[int] = []
        self.sheets: list[int] = []
        self.cleared = 0

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.tried.append(len(rows))
        if len(rows) > self.room:
            raise self._error
        return super().predict(rows)

    def decode(self, row: Row) -> Image.Image:
        return self.decode_together([row])[0]

    def decode_together(self, rows: Sequence[Row]) -> list[Image.Image]:
        self.sheets.append(len(rows))
        if len(rows) > self._decodes:
            raise self._error
        return super().decode_together(rows)

    def clear_caches(self) -> int:
        self.cleared += 1
        return super().clear_caches()


def a_device_that_gains() -> Pacing:
    """From drawing and decoding many at once, as far as is known of it."""
    alike = dict.fromkeys((1, 2, 4, 8, 16), 1.0)
    return Pacing(StepProfile({BATCH.shape: alike, replace(BATCH, ending="decode").shape: alike}))


def drawn(model: UnetModel, *, samples: int, steps: int) -> tuple[Image.Image, ...]:
    """Of one job, so that all of its rows are there from the first step."""
    studio = Studio({"demo": model})
    job = studio.ask(a_request(seed=1, steps=steps, samples=samples))
    studio.draw()
    (result,) = job.results
    assert isinstance(result, Pictures)
    return result.images


def test_a_batch_that_ran_out_of_memory_is_not_tried_again_at_every_turn() -> None:
    model = ShortOfMemory(1)
    images = drawn(model, samples=4, steps=8)
    assert model.tried == [4, 2, *[1] * 4 * 8], "the other half of four is known to be too much"
    for number, image in enumerate(images):
        assert greatest_difference(image, draw_alone(a_request(seed=1 + number, steps=8))) <= 2


def test_errors_of_another_kind_leave_the_size_of_batches_alone() -> None:
    model = ShortOfMemory(2, error=RuntimeError("an illegal memory access was encountered"))
    drawn(model, samples=4, steps=4)
    assert model.tried == [4, 2, 2] * 4


def test_without_trouble_batches_stay_as_large_as_they_were() -> None:
    model = ShortOfMemory(4)
    drawn(model, samples=4, steps=4)
    assert model.tried == [4] * 4


def test_a_picture_that_has_no_memory_alone_is_tried_again_once_what_can_be_let_go_is_gone() -> None:
    class Relieved(ShortOfMemory):
        def clear_caches(self) -> int:
            self.room = 1
            return super().clear_caches()

    model = Relieved(0)
    (image,) = drawn(model, samples=1, steps=3)
    assert model.tried == [1] * 4
    assert model.cleared == 1
    assert greatest_difference(image, draw_alone(a_request(seed=1, steps=3))) == 0


def test_a_picture_that_never_has_memory_fails_alone() -> None:
    class Picky(ShortOfMemory):
        def predict(self, rows: Sequence[Row]) -> list[Tensor]:
            if any(row.generator.initial_seed() == 2 for row in rows):
                raise NO_MEMORY
            return super().predict(rows)

    studio = Studio({"demo": Picky(8)})
    jobs = [studio.ask(a_request(seed=seed)) for seed in range(4)]
    studio.draw()
    assert [type(job.results[0]) for job in jobs] == [Pictures, Pictures, Trouble, Pictures]


def beside(wake: Callable[[], None]) -> DecodingStage[Ending]:
    return ThreadedDecoding(wake)


@pytest.mark.parametrize("stage", [None, beside])
def test_decodes_that_ran_out_of_memory_become_smaller_too(stage: Callable[[Callable[[], None]], DecodingStage[Ending]] | None) -> None:
    model = ShortOfMemory(16, decodes=1)
    studio = Studio({"demo": model}, pacing=a_device_that_gains(), decoding_beside=stage)
    jobs = [studio.ask(a_request(seed=1, steps=steps, samples=4)) for steps in (2, 5, 8)]
    studio.draw()
    assert len([pictures for pictures in model.sheets if pictures > 1]) <= 2, "of four at most, then of two"
    assert sum(pictures for pictures in model.sheets if pictures == 1) == 12
    for job, steps in zip(jobs, (2, 5, 8), strict=True):
        assert greatest_difference(job.image, draw_alone(a_request(seed=1, steps=steps))) <= 2


def test_memory_kept_for_later_use_is_given_back_before_a_failed_decode_is_tried_again() -> None:
    order: list[str] = []

    def decode(pieces: Sequence[int]) -> list[Image.Image]:
        order.append(f"decode {len(pieces)}")
        if len(pieces) > 1:
            raise NO_MEMORY
        return [Image.new("RGB", (8, 8)) for _ in pieces]

    stage = ThreadedDecoding[int](lambda: None, release=lambda: order.append("release"))
    stage.begin([1, 2], decode)
    stage.close()
    (sheet,) = stage.take()
    assert order == ["decode 2", "release", "decode 1", "decode 1"]
    assert sheet.ran_out_of_memory


def test_what_fitted_is_the_limit_and_more_is_tried_after_a_while() -> None:
    room = Room()
    assert room.most("s", wanted=16, least=2) == 16
    room.ran_out("s", 16)
    assert room.most("s", wanted=16, least=2) == 8
    room.fitted("s", 8)
    found = [room.most("s", wanted=16, least=2) for _ in range(70)]
    assert set(found) == {8, 10}, "a quarter more"
    room.ran_out("s", 10)
    found = [room.most("s", wanted=16, least=2) for _ in range(120)]
    assert set(found) == {8}, "later than the first time"
    assert room.most("t", wanted=16, least=2) == 16, "other shapes have their own"


def test_what_has_room_again_is_taken_again() -> None:
    room = Room()
    room.ran_out("s", 16)
    for _ in range(1000):
        room.fitted("s", room.most("s", wanted=16, least=2))
    assert room.most("s", wanted=16, least=2) == 16


def test_more_is_tried_at_once_when_something_has_left_memory() -> None:
    caps = Caps(None, max_pixels=2**22, max_rows=16)
    caps.ran_out(BATCH, 16)
    caps.fitted(BATCH, 8)
    assert caps.most(BATCH, samples_each=2).samples == 8
    caps.memory_was_freed()
    assert caps.most(BATCH, samples_each=2).samples == 10


def test_less_memory_than_when_it_fitted_is_believed() -> None:
    room = Room()
    room.ran_out("s", 16)
    room.fitted("s", 8)
    room.ran_out("s", 8)
    assert room.most("s", wanted=16, least=2) == 4
    room.ran_out("s", 1)
    assert room.most("s", wanted=16, least=2) == 2, "a row always has room"


def test_only_so_many_shapes_are_remembered() -> None:
    room = Room()
    for number in range(300):
        room.ran_out(str(number), 16)
    assert room.most("0", wanted=16, least=2) == 16
    assert room.most("299", wanted=16, least=2) == 8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NO_MEMORY, True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_mean_no_memory_are_known(error: Exception, *, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
    behind = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    behind.__context__ = error
    assert is_out_of_memory(behind) == expected
