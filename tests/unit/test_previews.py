"""However many look at a job, it is shown once a second at most; and what a watch notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO
from threading import Event

import pytest
from PIL import Image

from sdapi.domain.drawing_speeds import DrawingSpeeds
from sdapi.domain.generation import Img2Img, SchedulerName, Txt2Img, Upscale
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.domain.progress import Progress
from sdapi.engine.availability import missing
from sdapi.engine.base import Outcome, Report, Work
from sdapi.jobs.board import JobBoard
from sdapi.jobs.previews import Previews

JOB = 7


class Easel:
    """An engine that draws nothing but shows what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.shown: Image.Image | None = Image.new("RGB", (512, 256), "red")
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def preview(self, job_id: int) -> Image.Image | None:
        self.asked += 1
        await self.may_answer.wait()
        return self.shown

    async def draw(self, work: Work, report: Report, cancelled: Event) -> Outcome:
        raise NotImplementedError

    async def is_unsafe(self, image: Image.Image) -> bool | None:
        return None

    async def clear_caches(self) -> int:
        return 0

    def room(self) -> int:
        return 0

    def models(self) -> ModelsInMemory:
        return ModelsInMemory()

    def preloading(self) -> tuple[str, ...]:
        return ()

    def problem(self) -> str | None:
        return None

    async def load_s(self, model_id: str) -> float:
        return 0

    def batch_pixels(self) -> int:
        return 0

    def speeds(self) -> DrawingSpeeds:
        return DrawingSpeeds()

    async def stop(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def board() -> AsyncIterator[JobBoard]:
    board = JobBoard()
    board.started(JOB)
    board.report(JOB, Progress(1, 30))
    yield board
    assert board.watched() == 0


async def test_a_preview_is_a_small_jpeg(board: JobBoard) -> None:
    jpeg = await Previews(engine=Easel(), board=board).jpeg(JOB)
    assert jpeg is not None
    picture = Image.open(BytesIO(jpeg))
    assert (picture.format, picture.size) == ("JPEG", (256, 128))


async def test_before_the_first_step_the_engine_is_not_even_asked() -> None:
    board, engine = JobBoard(), Easel()
    board.started(JOB)
    previews = Previews(engine=engine, board=board)
    assert (await previews.jpeg(JOB), await previews.jpeg(99), engine.asked) == (None, None, 0)


async def test_within_a_second_the_last_one_is_shown_again(board: JobBoard) -> None:
    engine, clock = Easel(), Clock()
    previews = Previews(engine=engine, board=board, clock=clock)
    first = await previews.jpeg(JOB)
    engine.shown = Image.new("RGB", (8, 8), "blue")
    clock.now_s += 0.9
    assert (await previews.jpeg(JOB), engine.asked) == (first, 1)
    clock.now_s += 0.2
    assert (await previews.jpeg(JOB) != first, engine.asked) == (True, 2)


async def test_all_who_ask_at_once_share_one_preview_and_anyone_may_leave(board: JobBoard) -> None:
    engine = Easel()
    engine.may_answer.clear()
    previews = Previews(engine=engine, board=board)
    asking = [asyncio.create_task(previews.jpeg(JOB)) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    engine.may_answer.set()
    seen = await asyncio.gather(*asking[1:])
    assert engine.asked == 1
    assert None not in seen


async def test_a_step_that_takes_too_long_shows_the_last_one(board: JobBoard) -> None:
    engine = Easel()
    previews = Previews(engine=engine, board=board, interval_s=0, timeout_s=0.01)
    engine.may_answer.clear()
    assert await previews.jpeg(JOB) is None
    engine.may_answer.set()
    while (seen := await previews.jpeg(JOB)) is None:
        await asyncio.sleep(0)
    engine.may_answer.clear()
    assert await previews.jpeg(JOB) == seen
    engine.may_answer.set()
    await asyncio.sleep(0)


async def test_what_was_shown_is_forgotten_when_the_job_ends(board: JobBoard) -> None:
    previews = Previews(engine=Easel(), board=board)
    await previews.jpeg(JOB)
    board.ended(JOB)
    assert (await previews.jpeg(JOB), board.preview(JOB)) == (None, None)


async def test_a_watch_wakes_for_a_change_and_for_a_step_only_when_asked(board: JobBoard) -> None:
    async with board.watch(JOB) as watch:
        board.report(JOB, Progress(2, 30))
        assert await watch.wait(0.01) is False
        assert await watch.wait(60, or_step=True) is False
        board.changed(JOB)
        assert await watch.wait(60) is True
        assert await watch.wait(0.01, or_step=True) is False
        board.closing.set()
        assert (await watch.wait(60), watch.closing) == (True, True)


async def test_a_waiting_call_that_is_cancelled_leaves_no_tasks(board: JobBoard) -> None:
    async with board.watch(JOB) as watch:
        waiting = asyncio.create_task(watch.wait(60, or_step=True))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def a_request(**changes: object) -> Txt2Img:
    return Txt2Img.model_validate({"checkpoint": "demo", "prompt": "a cat", "seed": 1, **changes})


def test_what_is_missing_is_named() -> None:
    over = {**a_request(highres_fix=True).model_dump(exclude={"kind"}), "init_image": "inputs/x.png"}
    reason = missing(Img2Img.model_validate(over))
    assert reason is not None
    assert "highres_fix" in reason
    assert reason.endswith(" is not available on this server.")


def test_other_kinds_are_missing_and_plain_ones_are_not() -> None:
    upscale = Upscale(init_image="inputs/x.png", width=8, height=8, upscaler="x")
    assert missing(upscale) is None
    assert missing(upscale.model_copy(update={"face_enhance": True})) is None
    assert missing(a_request(scheduler=SchedulerName.EULER)) is None
    over = Img2Img.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "inputs/x.png"})
    assert missing(over) is None
    assert missing(a_request(panorama=True, self_attention=True, token_merging=True)) is None
    assert "panorama" in str(missing(over.model_copy(update={"panorama": True})))
