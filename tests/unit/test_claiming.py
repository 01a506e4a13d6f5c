"""Clients nothing of whom is in flight are looked for apart from the others."""

from __future__ import annotations

import pytest

from sdapi.jobs.fairness import is_anybody_waiting
from sdapi.jobs.repository import JobRepository

from .test_jobs_repository import NOW, Sessions, a_job, add, claim


@pytest.mark.parametrize(
    ("queued", "without", "is_waiting"),
    [
        ([], [1], False),
        ([1, 1], [1], False),
        ([1, 2], [1], True),
        ([1, 2], [2], True),
        ([1, 2, 3], [1, 3], True),
        ([1, 3], [1, 3], False),
        ([0, 5], [5, 2, 9], True),
        ([9], [5, 2], True),
        ([1], [], True),
        ([], [], False),
    ],
)
async def test_whether_anybody_else_waits(sessions: Sessions, queued: list[int], without: list[int], *, is_waiting: bool) -> None:
    await add(sessions, *(a_job(client_id=client) for client in queued))
    async with sessions() as session:
        assert await is_anybody_waiting(session, without=without) == is_waiting


async def test_nobody_waits_whose_job_runs_already(sessions: Sessions) -> None:
    await add(sessions, a_job(client_id=1), a_job(client_id=2))
    await claim(sessions, 2)
    async with sessions() as session:
        assert not await is_anybody_waiting(session, without=[1])


async def test_a_claim_without_some_clients_takes_the_others_in_turn(sessions: Sessions) -> None:
    jobs = await add(sessions, *(a_job(client_id=client) for client in (1, 1, 2, 2, 3)))
    async with sessions.begin() as session:
        claimed = await JobRepository(session).claim("w1", 2, now=NOW, without=[1])
    assert {job.id for job in claimed} == {jobs[2].id, jobs[4].id}
