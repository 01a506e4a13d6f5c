"""When a job will be done, asked through the front door on real databases."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.domain.drawing_speeds import DrawingSpeeds, Measured, WorkSort
from sdapi.domain.generation import Txt2Img
from sdapi.domain.job import Job, NewJob
from sdapi.domain.progress import Progress
from sdapi.jobs.board import JobBoard
from sdapi.jobs.estimates import cost_of, shape_of
from sdapi.jobs.eta import Estimator, QueueLoad
from sdapi.jobs.queue_model import Demand, Paces, Room, finish_times
from sdapi.jobs.repository import JobRepository

Sessions = async_sessionmaker[AsyncSession]
NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


class Clock:
    """Stands still until it is told to move on."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class KnownLoads:
    """An engine that says how long each model takes to load, and what it has measured."""

    def __init__(self, load_s: Mapping[str, float] | None = None) -> None:
        self._load_s = load_s or {}
        self.measured = DrawingSpeeds()

    async def load_s(self, model_id: str) -> float:
        return self._load_s.get(model_id, 0.0)

    def batch_pixels(self) -> int:
        return 4 * 512 * 512

    def speeds(self) -> DrawingSpeeds:
        return self.measured


class Queue:
    """A jobs table, a clock and an estimator."""

    def __init__(self, sessions: Sessions, *, loads: KnownLoads | None = None, drawn_at_once: int = 8) -> None:
        self.sessions = sessions
        self.clock = Clock()
        self.board = JobBoard()
        self.drawn_at_once = drawn_at_once
        self.estimator = Estimator(sessions, self.board, loads or KnownLoads(), drawn_at_once=drawn_at_once, now=self.clock)

    async def add(self, *, client_id: int = 1, **changes: object) -> Job:
        request = Txt2Img.model_validate({"checkpoint": "demo", "prompt": "a red circle", "seed": 7, **changes})
        new = NewJob(client_id, "goapi", request, cost_of(request), (), "http://pictures.test")
        async with self.sessions.begin() as session:
            return await JobRepository(session).add(new, now=self.clock.now)

    async def claim(self, limit: int = 1, *, worker: str = "w1") -> list[Job]:
        async with self.sessions.begin() as session:
            claimed = await JobRepository(session).claim(worker, limit, now=self.clock.now)
        for job in claimed:
            self.board.started(job.id)
        return claimed

    async def finish(self, job: Job, *, seconds: float, worker: str = "w1") -> None:
        async with self.sessions.begin() as session:
            assert await JobRepository(session).finish(job.id, worker, now=self.clock.now, generation_time_s=seconds)
        self.board.ended(job.id)

    async def drawn(self, *, times_slower: float, jobs: int = 6) -> None:
        """Leave jobs in the table that were drawn one by one at so many times the default pace, then a quiet time."""
        for _ in range(jobs):
            await self.add()
            (job,) = await self.claim()
            seconds = alone_s(job) * times_slower
            self.clock.advance(seconds)
            await self.finish(job, seconds=seconds)
        self.clock.advance(60)


def alone_s(*jobs: Job) -> float:
    """How long the jobs take together at the default pace, when nothing else is there."""
    demands = [Demand(job.id, shape_of(job.request)) for job in jobs]
    return max(finish_times(demands, devices=1, room=Room(8, 4), paces=Paces()).values())


async def test_before_anything_was_measured_a_lone_job_takes_what_the_default_pace_says(sessions: Sessions) -> None:
    queue = Queue(sessions)
    job = await queue.add()
    assert await queue.estimator.eta_s(job) == pytest.approx(alone_s(job))


async def test_a_final_job_takes_no_time_and_has_no_position(sessions: Sessions) -> None:
    queue = Queue(sessions)
    await queue.add()
    (job,) = await queue.claim()
    await queue.finish(job, seconds=1.0)
    async with sessions() as session:
        final = await JobRepository(session).get(job.id)
    assert final is not None
    assert await queue.estimator.eta_s(final) == 0
    assert await queue.estimator.position(final) == 0


async def test_what_was_drawn_tells_how_quick_the_machine_is(sessions: Sessions) -> None:
    queue = Queue(sessions)
    await queue.drawn(times_slower=3)
    job = await queue.add()
    assert await queue.estimator.eta_s(job) == pytest.approx(3 * alone_s(job), rel=0.05)


async def test_a_new_measurement_is_noticed_within_a_second(sessions: Sessions) -> None:
    queue = Queue(sessions)
    job = await queue.add(client_id=1)
    before = await queue.estimator.eta_s(job)
    await queue.drawn(times_slower=3, jobs=1)
    later = await queue.add()
    assert await queue.estimator.eta_s(later) > 1.5 * before


async def test_a_neighbour_that_shares_forwards_costs_less_than_one_that_does_not(sessions: Sessions) -> None:
    shared, apart = Queue(sessions), Queue(sessions)
    first, second = await shared.add(width=128, height=128), await shared.add(width=128, height=128)
    together = await shared.estimator.eta_s(second)
    assert alone_s(first) < together < 2 * alone_s(first)
    other = await apart.add(width=192, height=128)
    assert await apart.estimator.eta_s(other) > together


async def test_progress_brings_the_end_nearer(sessions: Sessions) -> None:
    queue = Queue(sessions)
    await queue.add()
    (job,) = await queue.claim()
    whole = await queue.estimator.eta_s(job)
    queue.board.report(job.id, Progress(15, 30))
    queue.clock.advance(30)
    assert 0.4 * whole < await queue.estimator.eta_s(job) < 0.7 * whole


async def test_between_two_reckonings_time_passes_all_the_same(sessions: Sessions) -> None:
    queue = Queue(sessions)
    job = await queue.add()
    first = await queue.estimator.eta_s(job)
    queue.clock.advance(0.2)
    assert await queue.estimator.eta_s(job) == pytest.approx(first - 0.2)


async def test_a_job_that_should_be_done_by_now_is_never_promised_for_the_past(sessions: Sessions) -> None:
    queue = Queue(sessions)
    await queue.add(steps=1, width=64, height=64)
    (job,) = await queue.claim()
    queue.board.report(job.id, Progress(1, 1))
    assert await queue.estimator.eta_s(job) > 0


async def test_a_model_that_has_to_be_loaded_is_waited_for(sessions: Sessions) -> None:
    queue = Queue(sessions, loads=KnownLoads({"large": 12.0}))
    cold, warm = await queue.add(checkpoint="large"), await queue.add(checkpoint="demo")
    assert await queue.estimator.eta_s(cold) == pytest.approx(12.0 + alone_s(cold))
    assert await queue.estimator.eta_s(warm) == pytest.approx(alone_s(warm))


async def test_a_job_that_is_drawn_already_waits_for_no_model(sessions: Sessions) -> None:
    queue = Queue(sessions, loads=KnownLoads({"demo": 12.0}))
    await queue.add()
    (job,) = await queue.claim()
    queue.board.report(job.id, Progress(0, 30))
    assert await queue.estimator.eta_s(job) == pytest.approx(alone_s(job))


async def test_a_long_queue_has_to_be_drawn_first(sessions: Sessions) -> None:
    queue = Queue(sessions, drawn_at_once=2)
    jobs: list[Job] = []
    for _ in range(6):
        jobs.append(await queue.add())
        queue.clock.advance(20)
    queue.clock.advance(60)
    etas = [await queue.estimator.eta_s(job) for job in jobs]
    assert etas == sorted(etas)
    assert etas[-1] > 4 * alone_s(jobs[-1])


async def test_in_a_steady_stream_those_who_will_come_are_reckoned_with(sessions: Sessions) -> None:
    queue = Queue(sessions)
    for _ in range(20):
        await queue.add(steps=10, width=256, height=256)
        (job,) = await queue.claim()
        queue.clock.advance(0.5)
        await queue.finish(job, seconds=alone_s(job))
    last = await queue.add(steps=50)
    assert await queue.estimator.eta_s(last) > 1.2 * alone_s(last)
    queue.clock.advance(60)
    assert await queue.estimator.eta_s(last) < 1.15 * alone_s(last)


async def test_two_processes_draw_side_by_side(sessions: Sessions) -> None:
    queue = Queue(sessions, drawn_at_once=1)
    for worker in ("w1", "w2"):
        await queue.add()
        for job in await queue.claim(worker=worker):
            queue.board.report(job.id, Progress(0, 30))
    waiting = await queue.add()
    queue.clock.advance(60)
    assert await queue.estimator.eta_s(waiting) == pytest.approx(2 * alone_s(waiting), rel=0.01)


async def test_a_job_of_another_process_is_as_far_as_it_should_be_by_now(sessions: Sessions) -> None:
    queue = Queue(sessions)
    for worker in ("here", "elsewhere"):
        await queue.add()
        (job,) = await queue.claim(worker=worker)
        if worker == "here":
            queue.board.report(job.id, Progress(0, 30))
    queue.clock.advance(1)
    assert await queue.estimator.eta_s(job) == pytest.approx(alone_s(job) - 1)


async def test_positions_are_those_in_which_jobs_are_claimed(sessions: Sessions) -> None:
    queue = Queue(sessions)
    chance = random.Random(3)
    for _ in range(4):
        await queue.add(client_id=chance.choice((1, 2, 3)))
        queue.clock.advance(1)
        await queue.claim()
    jobs: list[Job] = []
    for _ in range(12):
        jobs.append(await queue.add(client_id=chance.choice((1, 1, 1, 2, 3, 4))))
        queue.clock.advance(0.1)
    positions = {job.id: await queue.estimator.position(job) for job in jobs}
    claimed: list[int] = []
    while got := await queue.claim(1):
        claimed += [job.id for job in got]
        queue.clock.advance(1)
    assert sorted(positions, key=lambda job_id: positions[job_id]) == claimed
    assert sorted(positions.values()) == list(range(4, 16))


async def test_the_queue_as_a_whole_is_told(sessions: Sessions) -> None:
    queue = Queue(sessions)
    assert await queue.estimator.queue_load() == QueueLoad(0, 0, 0.0)
    first, second = await queue.add(), await queue.add()
    await queue.claim()
    queue.clock.advance(60)
    load = await queue.estimator.queue_load()
    assert (load.queued, load.running) == (1, 1)
    assert load.seconds == pytest.approx(alone_s(first, second), rel=0.01)


async def test_beyond_those_followed_one_by_one_the_queue_still_grows(sessions: Sessions) -> None:
    queue = Queue(sessions, drawn_at_once=2)
    jobs: list[Job] = []
    for _ in range(150):
        jobs.append(await queue.add(width=64, height=64, steps=2))
        queue.clock.advance(0.01)
    queue.clock.advance(60)
    middle, last = [await queue.estimator.eta_s(job) for job in (jobs[75], jobs[149])]
    assert 1.8 * middle < last < 2.2 * middle
    assert await queue.estimator.position(jobs[149]) == 149
    assert (await queue.estimator.queue_load()).seconds == pytest.approx(last, rel=0.05)


async def test_a_job_that_ended_meanwhile_is_as_good_as_done(sessions: Sessions) -> None:
    queue = Queue(sessions)
    await queue.add()
    (job,) = await queue.claim()
    await queue.finish(job, seconds=1.0)
    assert await queue.estimator.eta_s(job) < 0.5


async def test_what_the_device_was_measured_to_take_is_believed_at_once(sessions: Sessions) -> None:
    loads = KnownLoads()
    queue = Queue(sessions, loads=loads)
    job = await queue.add(width=256, height=256, steps=20)
    steps, ends = WorkSort("demo", 256, 256, 77), WorkSort("demo", 256, 256, None)
    loads.measured = DrawingSpeeds({steps: Measured({2: 0.5}, 2), ends: Measured({1: 1.0}, 1)})
    assert await queue.estimator.eta_s(job) == pytest.approx(1.2 * (20 * 0.5 + 1.0))
