"""Whose job is next."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from sdapi.db.tables import JobRow
from sdapi.domain.job import JobStatus


def next_in_turn(limit: int, *, without: Collection[int] = ()) -> Select[int]:
    """Ids of the queued jobs to run next, locked: first of every client its oldest, then of every client its second, and so on.

    None of the clients `without`.

    Within a round the client goes first whose latest start is longest ago; so claiming one at a time is fair as well.
    """
    waiting = (
        select(
            JobRow.id,
            JobRow.client_id,
            func.row_number().over(partition_by=JobRow.client_id, order_by=(JobRow.created_at, JobRow.id)).label("round"),
        )
        .where(JobRow.status == JobStatus.QUEUED, JobRow.client_id.not_in(without))
        .subquery()
    )
    clients = select(JobRow.client_id).where(JobRow.status == JobStatus.QUEUED).distinct().subquery()
    other = aliased(JobRow)
    latest_start = select(func.max(other.started_at)).where(other.client_id == clients.c.client_id).scalar_subquery()
    served = select(clients.c.client_id, latest_start.label("at")).subquery()
    return (
        select(JobRow.id)
        .join(waiting, waiting.c.id == JobRow.id)
        .join(served, served.c.client_id == waiting.c.client_id)
        .where(JobRow.status == JobStatus.QUEUED)
        .order_by(waiting.c.round, served.c.at.asc().nulls_first(), JobRow.created_at, JobRow.id)
        .limit(limit)
        # PostgreSQL allows no FOR UPDATE beside a window function, so the ranks come from a subquery and only this table is locked.
        .with_for_update(of=JobRow, skip_locked=True)
    )


async def is_anybody_waiting(session: AsyncSession, *, without: Collection[int]) -> bool:
    """Whether a job is queued of a client that is not among these; asked of an index, so that the queue's length doesn't matter."""
    gaps = [exists().where(JobRow.status == JobStatus.QUEUED, gap) for gap in _between(sorted(without))]
    return bool(await session.scalar(select(or_(*gaps))))


def _between(clients: list[int]) -> list[ColumnElement[bool]]:
    """All clients before, between and after these, as ranges of the index."""
    if not clients:
        return [JobRow.client_id.is_not(None)]
    inner = [and_(JobRow.client_id > low, JobRow.client_id < high) for low, high in pairwise(clients)]
    return [JobRow.client_id < clients[0], *inner, JobRow.client_id > clients[-1]]
