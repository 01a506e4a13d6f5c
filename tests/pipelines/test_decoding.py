"""Finished rows become pictures several at once, between steps or beside them, and what befalls one is its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from PIL import Image

from sdapi.domain.progress import Progress
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.decoding import DecodingStage, InlineDecoding, ThreadedDecoding
from sdapi.pipelines.scheduling.flights import Ending
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped, Trouble

from .drawing import Asked, Studio, a_request, an_inpaint_request, demo_parts, draw_alone, greatest_difference


def pictures(pieces: Sequence[int]) -> list[Image.Image]:
    """Of which negative numbers can't be had."""
    if any(piece < 0 for piece in pieces):
        raise ArithmeticError("the latents overflowed")
    return [Image.new("L", (1, 1), piece) for piece in pieces]


def stages() -> list[Callable[[], tuple[DecodingStage[int], threading.Semaphore]]]:
    def inline() -> tuple[DecodingStage[int], threading.Semaphore]:
        return InlineDecoding[int](), threading.Semaphore(10)

    def threaded() -> tuple[DecodingStage[int], threading.Semaphore]:
        ended = threading.Semaphore(0)
        return ThreadedDecoding[int](ended.release), ended

    return [inline, threaded]


@pytest.mark.parametrize("opened", stages())
def test_pictures_come_back_in_order_and_a_failure_is_its_own(
    opened: Callable[[], tuple[DecodingStage[int], threading.Semaphore]],
) -> None:
    stage, ended = opened()
    stage.begin([1, -1, 2], pictures)
    stage.begin([3], pictures)
    for _ in range(2):
        assert ended.acquire(timeout=10)
    sheets = stage.take()
    found = [(piece, result) for sheet in sheets for piece, result in sheet.results]
    assert [piece for piece, _ in found] == [1, -1, 2, 3]
    assert [isinstance(result, Exception) for _, result in found] == [False, True, False, False]
    assert [sheet.seconds is None for sheet in sheets] == [True, False], "what failed says nothing of the device"
    assert stage.take() == []
    assert not stage.is_busy
    stage.close()


def test_closing_waits_for_what_is_being_decoded_and_gives_up_the_rest() -> None:
    began, go = threading.Event(), threading.Event()
    decoded: list[int] = []

    def slow(pieces: Sequence[int]) -> list[Image.Image]:
        began.set()
        assert go.wait(10)
        decoded.extend(pieces)
        return pictures(pieces)

    stage = ThreadedDecoding[int](lambda: None)
    stage.begin([1], slow)
    stage.begin([2], slow)
    assert began.wait(10)
    assert stage.is_busy
    closing = threading.Thread(target=stage.close)
    closing.start()
    while not stage._thread._shutdown:
        closing.join(0.01)
    go.set()
    closing.join(10)
    assert decoded == [1]


def test_a_device_that_fails_at_the_end_fails_what_it_worked_on() -> None:
    class Failing:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("an illegal memory access was encountered")

    ended = threading.Event()
    stage = ThreadedDecoding[int](ended.set, Failing)
    stage.begin([1, 2], pictures)
    assert ended.wait(10)
    (sheet,) = stage.take()
    assert all(isinstance(result, RuntimeError) for _, result in sheet.results)
    stage.close()


class WatchedModel(UnetModel):
    """The real model, keeping a tally of its decodes; can't bear one seed."""

    def __init__(self, *, bad_seed: int | None = None) -> None:
        super().__init__("demo", demo_parts())
        self.sheets: list[int] = []
        self.threads: set[str] = set()
        self._bad_seed = bad_seed
        self.before: Callable[[], None] = lambda: None

    def decode(self, row: Row) -> Image.Image:
        return self.decode_together([row])[0]

    def decode_together(self, rows: Sequence[Row]) -> list[Image.Image]:
        self.before()
        self.threads.add(threading.current_thread().name)
        if any(row.generator.initial_seed() == self._bad_seed for row in rows):
            raise RuntimeError("CUDA error: out of memory")
        self.sheets.append(len(rows))
        return super().decode_together(rows)


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


def beside(wake: Callable[[], None]) -> DecodingStage[Ending]:
    return ThreadedDecoding(wake)


def known_decodes() -> Pacing:
    """A device that gains from drawing and decoding many at once."""
    alike = dict.fromkeys((1, 2, 4, 8), 1.0)
    profile = StepProfile({"demo 8x8 decode": alike, "demo 8x8 77 tokens": alike})
    return Pacing(profile)


@pytest.mark.parametrize("is_beside", [False, True])
def test_pictures_decoded_together_are_those_decoded_alone(*, is_beside: bool) -> None:
    model = WatchedModel()
    studio = Studio({"demo": model}, pacing=known_decodes(), decoding_beside=beside if is_beside else None)
    job = studio.ask(a_request(seed=20, steps=3, samples=4))
    studio.draw()
    assert max(model.sheets) >= 2, "some were together"
    (result,) = job.results
    assert isinstance(result, Pictures)
    for number, image in enumerate(result.images):
        assert greatest_difference(image, draw_alone(a_request(seed=20 + number, steps=3))) <= 1
    assert any(name.startswith("sdapi-decode") for name in model.threads) == is_beside


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_picture_that_can_not_be_decoded_fails_its_own_job_only(*, is_beside: bool) -> None:
    studio = Studio({"demo": WatchedModel(bad_seed=2)}, pacing=known_decodes(), decoding_beside=beside if is_beside else None)
    jobs = [studio.ask(a_request(seed=seed, steps=3)) for seed in range(4)]
    studio.draw()
    assert [type(job.results[0]) for job in jobs] == [Pictures, Pictures, Trouble, Pictures]


def test_kept_parts_come_back_when_pictures_are_decoded_together() -> None:
    """Each with the parts it keeps of its own picture."""
    studio = Studio(pacing=known_decodes())
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    inits = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    jobs = [studio.ask(an_inpaint_request(steps=3, seed=seed), init, mask) for seed, init in enumerate(inits)]
    studio.draw()
    for job, init in zip(jobs, inits, strict=True):
        assert job.image.getpixel((63, 32)) == init.getpixel((63, 32))


def test_steps_go_on_while_a_picture_is_decoded_beside_and_a_cancelled_one_lands_at_once() -> None:
    model = WatchedModel()
    go = threading.Event()
    model.before = lambda: assert_set(go)
    studio = Studio({"demo": model}, decoding_beside=beside)

    def on_step(progress: Progress) -> None:
        if progress.step == 10:
            assert not short.results, "it is being decoded"
            short.ticket.cancelled.set()
        if progress.step == 12:
            assert isinstance(short.results[0], Stopped)
            go.set()

    short = studio.ask(a_request(seed=1, steps=2))
    long = studio.ask(a_request(seed=2, steps=14), on_step=on_step)
    studio.draw()
    assert greatest_difference(long.image, draw_alone(a_request(seed=2, steps=14))) <= 2
    assert len(short.results) == 1


def test_a_picture_nobody_wants_any_more_when_it_is_decoded_is_dropped() -> None:
    """And the loop rests, instead of looking at it for ever."""
    model, began, go = WatchedModel(), threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert_set(go)

    model.before = wait
    stages: list[ThreadedDecoding[Ending]] = []

    def opened(wake: Callable[[], None]) -> DecodingStage[Ending]:
        stages.append(ThreadedDecoding(wake))
        return stages[0]

    studio = Studio({"demo": model}, decoding_beside=opened)
    job = studio.ask(a_request(steps=2))
    thread = threading.Thread(target=studio.loop.run)
    studio.asked.append(studio.asked[0])
    studio.asked[1] = Asked(job.ticket)  # so that the loop goes on when the job has ended
    thread.start()
    assert_set(began)
    job.ticket.cancelled.set()
    while not job.results:
        thread.join(0.01)
    go.set()
    while stages[0].is_busy or stages[0].has_ended_any:
        thread.join(0.01)
    studio.loop.stop()
    thread.join(10)
    assert [type(result) for result in job.results] == [Stopped]


def test_stopping_while_a_picture_is_decoded_beside_ends_its_job_once() -> None:
    model = WatchedModel()
    began = threading.Event()

    def stop() -> None:
        began.set()
        studio.loop.stop()

    model.before = stop
    studio = Studio({"demo": model}, decoding_beside=beside)
    job = studio.ask(a_request(steps=2))
    studio.draw()
    assert began.is_set()
    assert len(job.results) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sdapi-decode")]


def test_what_is_learnt_of_decodes_is_theirs() -> None:
    pacing = Pacing(StepProfile())
    studio = Studio(pacing=pacing)
    studio.ask(a_request(steps=2))
    studio.draw()
    assert pacing.profile is not None
    shapes = set(pacing.profile.known)
    assert {shape for shape in shapes if "decode" in shape} == {"demo 8x8 decode"}
    assert {shape for shape in shapes if "tokens" in shape} == {"demo 8x8 77 tokens"}
