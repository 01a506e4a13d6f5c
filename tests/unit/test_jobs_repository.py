from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.domain.generation import Img2Img, SchedulerName, Txt2Img
from sdapi.domain.job import Job, JobStatus, NewJob
from sdapi.jobs.repository import JobRepository

Sessions = async_sessionmaker[AsyncSession]
NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_job(
    *, client_id: int = 1, cost: float = 10.0, output_names: tuple[str, ...] = (), request: Txt2Img | Img2Img | None = None
) -> NewJob:
    return NewJob(
        client_id=client_id,
        dialect="goapi",
        request=request or Txt2Img(checkpoint="demo", prompt="a red circle", seed=7),
        cost=cost,
        output_names=output_names,
        public_url="http://pictures.test",
        echo={"model_id": "midjourney", "track": [1, None, "é"]},
    )


async def add(sessions: Sessions, *jobs: NewJob) -> list[Job]:
    """Record jobs one second apart, the first at NOW."""
    async with sessions.begin() as session:
        return [await JobRepository(session).add(job, now=at(second)) for second, job in enumerate(jobs)]


async def claim(sessions: Sessions, limit: int, *, worker: str = "w1", now: datetime = NOW) -> list[Job]:
    async with sessions.begin() as session:
        return await JobRepository(session).claim(worker, limit, now=now)


async def get(sessions: Sessions, job: Job) -> Job:
    async with sessions() as session:
        found = await JobRepository(session).get(job.id)
    assert found is not None
    return found


def drawing(*ids: int) -> Callable[[], int]:
    drawn: Iterator[int] = iter(ids)
    return lambda: next(drawn)


async def test_a_job_comes_back_as_it_was_recorded(sessions: Sessions) -> None:
    request = Img2Img(checkpoint="demo", prompt="é", seed=2**32 - 1, init_image="in.png", scheduler=SchedulerName.HEUN, strength=0.3)
    (job,) = await add(sessions, a_job(request=request, output_names=("sd/0-x.png", "sd/1-x.png"), cost=0.1))

    assert await get(sessions, job) == job
    assert job == Job(
        id=job.id,
        client_id=1,
        dialect="goapi",
        request=request,
        status=JobStatus.QUEUED,
        cost=0.1,
        output_names=("sd/0-x.png", "sd/1-x.png"),
        public_url="http://pictures.test",
        echo={"model_id": "midjourney", "track": [1, None, "é"]},
        attempts=0,
        cancel_requested=False,
        created_at=NOW,
        started_at=None,
        finished_at=None,
        generation_time_s=None,
        error=None,
        files_removed=False,
    )


async def test_moments_come_back_in_utc_and_naive_ones_are_refused(sessions: Sessions) -> None:
    elsewhere = NOW.astimezone(UTC).replace(tzinfo=None)
    (job,) = await add(sessions, a_job())

    assert (await get(sessions, job)).created_at.utcoffset() == timedelta(0)
    async with sessions.begin() as session:
        with pytest.raises(Exception, match="time zone"):
            await JobRepository(session).add(a_job(), now=elsewhere)


async def test_ids_are_random_and_fit_in_31_bits(sessions: Sessions) -> None:
    ids = [job.id for job in await add(sessions, *[a_job()] * 30)]

    assert len(set(ids)) == 30
    assert all(1 <= job_id < 2**31 for job_id in ids)
    assert max(ids) > 2**24  # thirty counted ids would stay small
    assert ids != sorted(ids)


async def test_a_taken_id_is_drawn_again_within_the_callers_transaction(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        repository = JobRepository(session, new_id=drawing(5, 5, 5, 6))
        first = await repository.add(a_job(), now=NOW)
        second = await repository.add(a_job(), now=NOW)

    assert (first.id, second.id) == (5, 6)
    assert await get(sessions, first) == first
    assert await get(sessions, second) == second


async def test_one_picture_cannot_be_promised_by_two_jobs(sessions: Sessions) -> None:
    await add(sessions, a_job(output_names=("a.png",)))

    with pytest.raises(IntegrityError):
        await add(sessions, a_job(output_names=("a.png",)))


async def test_a_job_is_found_by_its_own_client_only(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job(client_id=1))

    async with sessions() as session:
        repository = JobRepository(session)
        assert await repository.get(job.id, client_id=1) == job
        assert await repository.get(job.id, client_id=2) is None
        assert await repository.get(job.id + 1) is None


async def test_a_job_is_found_by_the_name_of_a_picture_it_promised(sessions: Sessions) -> None:
    job, _ = await add(sessions, a_job(output_names=("a.png", "b.png")), a_job(output_names=("c.png",)))

    async with sessions() as session:
        assert await JobRepository(session).by_output_name("b.png") == job
        assert await JobRepository(session).by_output_name("d.png") is None


async def test_a_client_sees_its_latest_jobs_newest_first(sessions: Sessions) -> None:
    first, _, third, fourth = await add(sessions, a_job(), a_job(client_id=2), a_job(), a_job())

    async with sessions() as session:
        assert await JobRepository(session).list_for_client(1, 2) == [fourth, third]
        assert await JobRepository(session).list_for_client(1, 9) == [fourth, third, first]


# -- claiming


async def test_three_concurrent_claimers_never_take_one_job_twice(sessions: Sessions) -> None:
    jobs = await add(sessions, *[a_job(client_id=number % 3) for number in range(24)])

    async def work(worker: str) -> list[int]:
        taken: list[int] = []
        empty = 0
        while empty < 2:
            claimed = await claim(sessions, 2, worker=worker)
            taken += [job.id for job in claimed]
            empty = 0 if claimed else empty + 1
        return taken

    taken = await asyncio.gather(*(work(f"w{number}") for number in range(3)))

    assert sorted(job_id for ids in taken for job_id in ids) == sorted(job.id for job in jobs)


async def test_claiming_marks_the_job_as_running(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())

    (claimed,) = await claim(sessions, 5, now=at(3))

    assert claimed == await get(sessions, job)
    assert (claimed.status, claimed.attempts, claimed.started_at) == (JobStatus.RUNNING, 1, at(3))
    assert await claim(sessions, 5) == []


async def test_one_clients_jobs_are_claimed_in_the_order_they_came(sessions: Sessions) -> None:
    jobs = await add(sessions, a_job(), a_job(), a_job())

    claimed = [*await claim(sessions, 2), *await claim(sessions, 2)]

    assert [job.id for job in claimed] == [job.id for job in jobs]


async def test_one_claim_takes_from_every_client_in_turn(sessions: Sessions) -> None:
    jobs = await add(sessions, a_job(), a_job(), a_job(), a_job(), a_job(client_id=2), a_job(client_id=2), a_job(client_id=3))

    claimed = await claim(sessions, 5)

    assert {job.id for job in claimed} == {jobs[index].id for index in (0, 1, 4, 5, 6)}


async def test_claiming_one_at_a_time_is_fair_too(sessions: Sessions) -> None:
    await add(sessions, *[a_job(client_id=1)] * 5, *[a_job(client_id=2)] * 2, a_job(client_id=3))
    served: list[int] = []

    for second in count(100):
        claimed = await claim(sessions, 1, now=at(second))
        if not claimed:
            break
        served.append(claimed[0].client_id)
        async with sessions.begin() as session:  # each is done before the next is claimed
            await JobRepository(session).finish(claimed[0].id, "w1", now=at(second), generation_time_s=1)

    assert served == [1, 2, 3, 1, 2, 1, 1, 1]


async def test_claiming_for_no_room_takes_nothing(sessions: Sessions) -> None:
    await add(sessions, a_job())

    assert await claim(sessions, 0) == []


# -- running


async def test_finishing_records_the_time_and_happens_once(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())
    await claim(sessions, 1)

    async with sessions.begin() as session:
        done = await JobRepository(session).finish(job.id, "w1", now=at(9), generation_time_s=4.5)
        again = await JobRepository(session).fail(job.id, "w1", "too late", now=at(10))

    assert done == await get(sessions, job)
    assert (done.status, done.finished_at, done.generation_time_s) == (JobStatus.SUCCEEDED, at(9), 4.5)
    assert again is None


async def test_a_worker_that_does_not_run_the_job_cannot_end_it(sessions: Sessions) -> None:
    running, queued = await add(sessions, a_job(), a_job())
    await claim(sessions, 1, worker="w1")

    async with sessions.begin() as session:
        repository = JobRepository(session)
        for job in (running, queued):
            assert await repository.finish(job.id, "w2", now=NOW, generation_time_s=1) is None
            assert await repository.fail(job.id, "w2", "no", now=NOW) is None
            assert await repository.mark_cancelled(job.id, "w2", now=NOW) is None
        assert await repository.finish(queued.id, "w1", now=NOW, generation_time_s=1) is None

    assert (await get(sessions, running)).status is JobStatus.RUNNING
    assert await get(sessions, queued) == queued


async def test_a_failed_job_keeps_the_reason(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())
    await claim(sessions, 1)

    async with sessions.begin() as session:
        failed = await JobRepository(session).fail(job.id, "w1", "Out of memory", now=at(2))

    assert failed == await get(sessions, job)
    assert (failed.status, failed.error, failed.finished_at) == (JobStatus.FAILED, "Out of memory", at(2))


async def test_a_heartbeat_tells_which_of_its_jobs_to_cancel(sessions: Sessions) -> None:
    first, second, foreign = await add(sessions, a_job(), a_job(), a_job())
    await claim(sessions, 2, worker="w1")
    await claim(sessions, 1, worker="w2")
    async with sessions.begin() as session:
        for job in (second, foreign):
            asked, _ = await JobRepository(session).request_cancel(job.id, client_id=1, now=NOW)
            assert asked is not None
            assert (asked.status, asked.cancel_requested) == (JobStatus.RUNNING, True)

    async with sessions.begin() as session:
        repository = JobRepository(session)
        assert await repository.heartbeat([first.id, second.id, foreign.id], "w1", now=at(5)) == {second.id}
        assert await repository.heartbeat([], "w1", now=at(5)) == set()
        cancelled = await repository.mark_cancelled(second.id, "w1", now=at(6))

    assert cancelled is not None
    assert (cancelled.status, cancelled.finished_at) == (JobStatus.CANCELLED, at(6))


# -- cancelling


async def test_cancelling_a_queued_job_ends_it_at_once(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())

    async with sessions.begin() as session:
        cancelled, has_ended = await JobRepository(session).request_cancel(job.id, client_id=1, now=at(1))
    assert has_ended

    assert cancelled == await get(sessions, job)
    assert (cancelled.status, cancelled.finished_at) == (JobStatus.CANCELLED, at(1))
    assert await claim(sessions, 1) == []


async def test_cancelling_a_finished_job_changes_nothing(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())
    await claim(sessions, 1)

    async with sessions.begin() as session:
        repository = JobRepository(session)
        done = await repository.finish(job.id, "w1", now=at(1), generation_time_s=1)
        assert await repository.request_cancel(job.id, client_id=1, now=at(2)) == (done, False)


async def test_nobody_cancels_another_clients_job(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job(client_id=1))

    async with sessions.begin() as session:
        assert await JobRepository(session).request_cancel(job.id, client_id=2, now=NOW) == (None, False)
        assert await JobRepository(session).request_cancel(job.id + 1, client_id=None, now=NOW) == (None, False)

    assert await get(sessions, job) == job


async def test_clearing_the_queue_ends_what_waits_and_nothing_else(sessions: Sessions) -> None:
    running, *waiting = await add(sessions, a_job(), a_job(), a_job(client_id=2))
    await claim(sessions, 1)

    async with sessions.begin() as session:
        ended = await JobRepository(session).cancel_queued(now=at(5))

    assert {job.id for job in ended} == {job.id for job in waiting}
    assert {(job.status, job.finished_at) for job in ended} == {(JobStatus.CANCELLED, at(5))}
    assert (await get(sessions, running)).status is JobStatus.RUNNING
    assert await claim(sessions, 5) == []


async def test_an_idempotency_key_makes_one_job_per_client(sessions: Sessions) -> None:
    first, other = await add(sessions, replace(a_job(), idempotency_key="k"), replace(a_job(client_id=2), idempotency_key="k"))

    with pytest.raises(IntegrityError):
        await add(sessions, replace(a_job(), idempotency_key="k"))

    async with sessions() as session:
        repository = JobRepository(session)
        assert await repository.by_idempotency_key(1, "k") == first
        assert await repository.by_idempotency_key(2, "k") == other
        assert await repository.by_idempotency_key(1, "other") is None


# -- back to the queue


async def test_released_jobs_are_queued_as_if_never_begun(sessions: Sessions) -> None:
    first, second, foreign = await add(sessions, a_job(), a_job(), a_job())
    await claim(sessions, 2, worker="w1")
    await claim(sessions, 1, worker="w2")

    async with sessions.begin() as session:
        await JobRepository(session).release([first.id, foreign.id], "w1", now=at(1))
        await JobRepository(session).release([], "w1", now=at(1))

    assert await get(sessions, first) == first
    assert (await get(sessions, second)).status is JobStatus.RUNNING
    assert (await get(sessions, foreign)).status is JobStatus.RUNNING


async def test_a_job_to_be_cancelled_is_not_queued_again(sessions: Sessions) -> None:
    released, stale = await add(sessions, a_job(), a_job())
    await claim(sessions, 2)
    async with sessions.begin() as session:
        for job in (released, stale):
            await JobRepository(session).request_cancel(job.id, client_id=1, now=NOW)

    async with sessions.begin() as session:
        await JobRepository(session).release([released.id], "w1", now=at(1))
        requeued, ended = await JobRepository(session).requeue_stale(stale_before=at(60), max_attempts=3, now=at(61))

    assert requeued == []
    assert [(job.id, job.status) for job in ended] == [(stale.id, JobStatus.CANCELLED)]
    assert (await get(sessions, released)).status is JobStatus.CANCELLED


async def test_only_jobs_without_a_recent_heartbeat_are_stale(sessions: Sessions) -> None:
    dead, alive, queued = await add(sessions, a_job(), a_job(), a_job())
    await claim(sessions, 2)

    async with sessions.begin() as session:
        repository = JobRepository(session)
        await repository.heartbeat([alive.id], "w1", now=at(50))
        assert await repository.requeue_stale(stale_before=at(30), max_attempts=3, now=at(60)) == ([dead.id], [])

    again = await get(sessions, dead)
    assert (again.status, again.attempts, again.started_at) == (JobStatus.QUEUED, 1, None)
    assert (await get(sessions, alive)).status is JobStatus.RUNNING
    assert await get(sessions, queued) == queued


async def test_a_worker_that_was_taken_for_dead_cannot_finish_the_job(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())
    await claim(sessions, 1, worker="w1")
    async with sessions.begin() as session:
        await JobRepository(session).requeue_stale(stale_before=at(30), max_attempts=3, now=at(60))
    await claim(sessions, 1, worker="w2")

    async with sessions.begin() as session:
        assert await JobRepository(session).finish(job.id, "w1", now=at(61), generation_time_s=1) is None
        assert await JobRepository(session).finish(job.id, "w2", now=at(62), generation_time_s=1) is not None


async def test_a_job_that_killed_its_worker_too_often_fails_with_a_reason(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())
    outcomes = []

    for attempt in range(1, 4):
        (claimed,) = await claim(sessions, 1)
        assert claimed.attempts == attempt
        async with sessions.begin() as session:
            outcomes.append(await JobRepository(session).requeue_stale(stale_before=at(30), max_attempts=3, now=at(60)))

    failed = await get(sessions, job)
    assert outcomes == [([job.id], []), ([job.id], []), ([], [failed])]
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.finished_at == at(60)


# -- the queue as a whole


async def test_queued_jobs_are_counted_for_all_and_for_each_client(sessions: Sessions) -> None:
    await add(sessions, a_job(), a_job(), a_job(client_id=2))
    await claim(sessions, 1)

    async with sessions() as session:
        repository = JobRepository(session)
        assert [await repository.queued_count(), await repository.queued_count(1), await repository.queued_count(3)] == [2, 1, 0]


# -- retention


async def test_retention_finds_old_final_jobs_then_forgets_them(sessions: Sessions) -> None:
    old, recent, running, _queued = await add(sessions, a_job(output_names=("a.png",)), a_job(), a_job(), a_job())
    await claim(sessions, 3)
    async with sessions.begin() as session:
        repository = JobRepository(session)
        await repository.finish(old.id, "w1", now=at(10), generation_time_s=1)
        await repository.fail(recent.id, "w1", "no", now=at(20))

    async with sessions.begin() as session:
        repository = JobRepository(session)
        assert await repository.delete_finished_before(at(15), 9) == 0  # its files are still there
        assert [job.id for job in await repository.expired(at(15), 9)] == [old.id]
        assert [job.id for job in await repository.expired(at(99), 1)] == [old.id]
        await repository.mark_files_removed([old.id])
        assert await repository.expired(at(15), 9) == []
        kept = await repository.by_output_name("a.png")
        assert kept is not None
        assert kept.files_removed

        await repository.mark_files_removed([recent.id])
        assert await repository.delete_finished_before(at(99), 1) == 1
        assert await repository.get(old.id) is None
        assert await repository.by_output_name("a.png") is None
        assert await repository.delete_finished_before(at(99), 9) == 1

    assert (await get(sessions, running)).status is JobStatus.RUNNING


# -- transactions


async def test_concurrent_writers_that_read_first_all_succeed(sessions: Sessions) -> None:
    async def submit() -> None:
        async with sessions.begin() as session:
            await JobRepository(session).queued_count()
            await JobRepository(session).add(a_job(), now=NOW)

    await asyncio.gather(*(submit() for _ in range(12)))

    async with sessions() as session:
        assert await JobRepository(session).queued_count() == 12


async def test_a_reader_does_not_wait_for_a_writer(sessions: Sessions) -> None:
    (job,) = await add(sessions, a_job())

    async with sessions.begin() as writing:
        await JobRepository(writing).request_cancel(job.id, client_id=1, now=NOW)
        async with asyncio.timeout(2):
            assert await get(sessions, job) == job


async def test_statuses_are_stored_by_their_values(sessions: Sessions) -> None:
    await add(sessions, a_job())

    async with sessions() as session:
        assert (await session.execute(text("SELECT status, dialect FROM jobs"))).one() == ("queued", "goapi")


async def test_temporary_files_expire_sooner(sessions: Sessions) -> None:
    kept, temporary = await add(sessions, a_job(), replace(a_job(), is_temporary=True))
    await claim(sessions, 2)
    async with sessions.begin() as session:
        for job in (kept, temporary):
            await JobRepository(session).finish(job.id, "w1", now=at(10), generation_time_s=1)

    async with sessions() as session:
        expired = await JobRepository(session).expired(at(5), 9, temporary_before=at(15))

    assert [job.id for job in expired] == [temporary.id]
