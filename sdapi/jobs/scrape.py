"""One reading of the metrics: what this process has counted, and the queue as the database has it now."""

from __future__ import annotations

import logging

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import JobRow
from sdapi.domain.job import JobStatus
from sdapi.metrics import Metrics

_log = logging.getLogger(__name__)


class Scrape:
    """Answers a scrape with one indexed look at the jobs table; without a database it tells the rest."""

    def __init__(self, metrics: Metrics, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._metrics = metrics
        self._sessions = sessions

    async def read(self) -> bytes:
        """The text for Prometheus."""
        try:
            counts = await self._unfinished()
        except (OSError, SQLAlchemyError):
            _log.warning("the queue could not be counted: the database does not answer")
            return self._metrics.render(queued=None, running=None)
        return self._metrics.render(queued=counts.get(JobStatus.QUEUED, 0), running=counts.get(JobStatus.RUNNING, 0))

    async def _unfinished(self) -> dict[JobStatus, int]:
        unfinished = JobRow.status.in_((JobStatus.QUEUED, JobStatus.RUNNING))
        async with self._sessions() as session:
            rows = await session.execute(select(JobRow.status, func.count()).where(unfinished).group_by(JobRow.status))
        return dict(rows.tuples().all())
