"""The queue as the estimates look at it: few columns of the open jobs and of the last finished ones, by indexed queries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from sdapi.db.tables import JobRow
from sdapi.domain.generation import GENERATION_JSON
from sdapi.domain.job import JobStatus

from .estimates import Shape, shape_of


@dataclass(frozen=True)
class OpenJob:
    """A job that waits or runs, as far as the order of the queue goes."""

    id: int
    client_id: int
    status: JobStatus
    worker: str | None
    cost: float
    created_at: datetime
    started_at: datetime | None


@dataclass(frozen=True)
class FinishedJob:
    """A job that succeeded lately."""

    id: int
    client_id: int
    worker: str
    created_at: datetime
    started_at: datetime
    finished_at: datetime
    seconds: float


async def open_jobs(session: AsyncSession, limit: int) -> list[OpenJob]:
    """Up to `limit` jobs that run or wait, the running ones first, then the oldest."""
    columns = (JobRow.id, JobRow.client_id, JobRow.status, JobRow.worker, JobRow.cost, JobRow.created_at, JobRow.started_at)
    running = await session.execute(select(*columns).where(JobRow.status == JobStatus.RUNNING).limit(limit))
    found = [OpenJob(*row) for row in running]
    queued = select(*columns).where(JobRow.status == JobStatus.QUEUED).order_by(JobRow.created_at, JobRow.id)
    return found + [OpenJob(*row) for row in await session.execute(queued.limit(limit - len(found)))]


async def latest_starts(session: AsyncSession, client_ids: Collection[int]) -> dict[int, datetime | None]:
    """When each client was served last; not asked where there is only one, who need not take turns."""
    if len(client_ids) < 2:
        return {}
    # One look into the index for each client; grouping would read all their jobs.
    return {
        client_id: await session.scalar(
            select(JobRow.started_at)
            .where(JobRow.client_id == client_id, JobRow.started_at.is_not(None))
            .order_by(JobRow.started_at.desc())
            .limit(1)
        )
        for client_id in client_ids
    }


async def finished_jobs(session: AsyncSession, limit: int) -> list[FinishedJob]:
    """The last `limit` jobs that succeeded, the latest first."""
    columns = (
        JobRow.id,
        JobRow.client_id,
        JobRow.worker,
        JobRow.created_at,
        JobRow.started_at,
        JobRow.finished_at,
        JobRow.generation_time_s,
    )
    latest = select(*columns).where(JobRow.status == JobStatus.SUCCEEDED).order_by(JobRow.finished_at.desc()).limit(limit)
    rows = await session.execute(latest)
    return [
        FinishedJob(job_id, client_id, worker or "", created_at, started_at, finished_at, seconds)
        for job_id, client_id, worker, created_at, started_at, finished_at, seconds in rows
        if started_at is not None and finished_at is not None and seconds is not None
    ]


async def shapes(session: AsyncSession, job_ids: Collection[int]) -> dict[int, Shape]:
    """What is asked of each of these jobs, as far as they are there."""
    if not job_ids:
        return {}
    rows = await session.execute(select(JobRow.id, JobRow.request).where(JobRow.id.in_(job_ids)))
    return {job_id: shape_of(GENERATION_JSON.validate_json(request)) for job_id, request in rows}


def in_turn(waiting: Iterable[OpenJob], latest_start: Mapping[int, datetime | None]) -> list[OpenJob]:
    """The jobs in the order in which they will be claimed; see `fairness.next_in_turn`, which it follows."""
    rounds: Counter[int] = Counter()
    ranked: list[tuple[tuple[int, float, datetime, int], OpenJob]] = []
    for job in sorted(waiting, key=lambda one: (one.created_at, one.id)):
        rounds[job.client_id] += 1
        served = latest_start.get(job.client_id)
        ranked.append(((rounds[job.client_id], -math.inf if served is None else served.timestamp(), job.created_at, job.id), job))
    return [job for _, job in sorted(ranked, key=lambda pair: pair[0])]
