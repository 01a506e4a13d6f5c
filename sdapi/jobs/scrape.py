"""One reading of the metrics: what this process has counted, and the queue as the database has it now."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import JobRow
from sdapi.domain.job import JobStatus
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.metrics import Metrics

_log = logging.getLogger(__name__)


class Scrape:
    """Answers a scrape with one indexed look at the jobs table; without a database it tells the rest."""

    def __init__(
        self,
        metrics: Metrics,
        sessions: async_sessionmaker[AsyncSession],
        models: Callable[[], ModelsInMemory] = ModelsInMemory,
    ) -> None:
        """`models` tells what the engine has in memory."""
        self._metrics = metrics
        self._sessions = sessions
        self._models = models

    async def read(self) -> bytes:
        """The text for Prometheus."""
        try:
            counts = await self._unfinished()
        except (OSError, SQLAlchemyError):
            _log.warning("the queue could not be counted: the database does not answer")
            return self._metrics.render(queued=None, running=None, models=self._models())
        return self._metrics.render(queued=counts.get(JobStatus.QUEUED, 0), running=counts.get(JobStatus.RUNNING, 0), models=self._models())

    async def _unfinished(self) -> dict[JobStatus, int]:
        unfinished = JobRow.status.in_((JobStatus.QUEUED, JobStatus.RUNNING))
        async with self._sessions() as session:
            rows = await session.execute(select(JobRow.status, func.count()).where(unfinished).group_by(JobRow.status))
        return dict(rows.tuples().all())
