"""Removes what is older than the retention time: files first, and rows long after them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.domain.errors import SdapiError
from sdapi.storage import Storage

from .repository import JobRepository

_log = logging.getLogger(__name__)

_BATCH = 200
KEEP_TEMPORARY = timedelta(hours=24)
"""How long the files of requests with `temp: yes` are kept."""
_ROWS_LIVE_LONGER = 4
"""Rows stay this many retention times, so that fetch can say that the pictures are gone."""


class Retention:
    """One per process; several at once only find less to do."""

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        storage: Storage,
        keep: timedelta,
        interval_s: float,
        now: Callable[[], datetime],
        chores: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> None:
        """`chores` are other things to be cleaned up at the same times."""
        self._chores = tuple(chores)
        self._sessions = sessions
        self._storage = storage
        self._keep = keep
        self._interval_s = interval_s
        self._now = now
        self._stopping = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Clean up now and then every interval."""
        self._loop = asyncio.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """Return when the batch at hand is done."""
        self._stopping.set()
        if self._loop is not None:
            await self._loop

    def problem(self) -> str | None:
        """Why nothing is cleaned up, or None."""
        return "the retention loop ended" if self._loop is not None and self._loop.done() and not self._stopping.is_set() else None

    async def clean_up(self) -> int:
        """Remove everything that is due; how many jobs lost their files."""
        removed = 0
        while not self._stopping.is_set():
            async with self._sessions() as session:
                now = self._now()
                keep_temporary = min(self._keep, KEEP_TEMPORARY)
                jobs = await JobRepository(session).expired(now - self._keep, _BATCH, temporary_before=now - keep_temporary)
            for job in jobs:
                for name in (*job.output_names, *job.request.input_names):
                    await self._storage.delete(name)
            async with self._sessions.begin() as session:
                repository = JobRepository(session)
                await repository.mark_files_removed([job.id for job in jobs])
                await repository.delete_finished_before(self._now() - self._keep * _ROWS_LIVE_LONGER, _BATCH)
            removed += len(jobs)
            if len(jobs) < _BATCH:
                break
        return removed

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if removed := await self.clean_up():
                    _log.info("retention removed pictures", extra={"jobs": removed})
                for chore in self._chores:
                    await chore()
            except (OSError, SQLAlchemyError, SdapiError):  # SdapiError: a bucket that does not answer
                _log.exception("retention failed, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._stopping.wait()
