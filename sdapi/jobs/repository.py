"""Every SQL statement that makes, changes or finds jobs (`queue_look` reads the queue for the estimates).

A change of state is one conditional UPDATE; None from it means that somebody else was first. Rows stay in here, `Job` values leave.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from sdapi.db.tables import JobOutputRow, JobRow
from sdapi.domain.generation import GENERATION_JSON, AnyRequest
from sdapi.domain.job import Job, JobStatus, NewJob

from .fairness import next_in_turn

_ID_TRIES: Final = 8
_FINAL: Final = tuple(status for status in JobStatus if status.is_final)


def random_job_id() -> int:
    """An id that can't be guessed, in 1 to 2^31 - 1: clients keep it in 32 bits."""
    return secrets.randbelow(2**31 - 1) + 1


class JobRepository:
    """The jobs table, within the transaction of `session`; the caller commits."""

    def __init__(self, session: AsyncSession, *, new_id: Callable[[], int] = random_job_id) -> None:
        self._session = session
        self._new_id = new_id

    async def add(self, new: NewJob, *, now: datetime) -> Job:
        """Record `new` as queued and return it with its id.

        Raises IntegrityError where another job promised one of its output names already, or has the client's idempotency key.
        """
        row = await self._insert(new, now)
        if new.output_names:
            await self._session.execute(insert(JobOutputRow), [{"name": name, "job_id": row.id} for name in new.output_names])
        return _job(row)

    async def _insert(self, new: NewJob, now: datetime) -> JobRow:
        values: dict[str, Any] = {
            "client_id": new.client_id,
            "dialect": new.dialect,
            "request": GENERATION_JSON.dump_json(new.request).decode(),
            "echo": dict(new.echo),
            "status": JobStatus.QUEUED,
            "cost": new.cost,
            "output_names": list(new.output_names),
            "public_url": new.public_url,
            "attempts": 0,
            "cancel_requested": False,
            "created_at": now,
            "files_removed": False,
            "webhook_url": new.webhook_url,
            "is_temporary": new.is_temporary,
            "idempotency_key": new.idempotency_key,
        }
        for tries_left in range(_ID_TRIES - 1, -1, -1):
            try:
                async with self._session.begin_nested():
                    return (await self._session.scalars(insert(JobRow).values(id=self._new_id(), **values).returning(JobRow))).one()
            except IntegrityError:  # the id is taken; the savepoint keeps the caller's transaction alive
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    async def get(self, job_id: int, *, client_id: int | None = None) -> Job | None:
        """The job of this id; with `client_id`, only if it belongs to that key."""
        wanted = select(JobRow).where(JobRow.id == job_id)
        return await self._one(wanted if client_id is None else wanted.where(JobRow.client_id == client_id))

    async def by_idempotency_key(self, client_id: int, key: str) -> Job | None:
        """The job this client made with this key."""
        return await self._one(select(JobRow).where(JobRow.client_id == client_id, JobRow.idempotency_key == key))

    async def by_output_name(self, name: str) -> Job | None:
        """The job that promised the picture of this storage name."""
        return await self._one(select(JobRow).join(JobOutputRow, JobOutputRow.job_id == JobRow.id).where(JobOutputRow.name == name))

    async def list_for_client(self, client_id: int, limit: int) -> list[Job]:
        """The key's latest jobs, newest first."""
        newest = select(JobRow).where(JobRow.client_id == client_id).order_by(JobRow.created_at.desc(), JobRow.id.desc())
        return await self._all(newest.limit(limit))

    # -- running ------------------------------------------------------------------------------------------------------------------

    async def claim(self, worker: str, limit: int, *, now: datetime, without: Collection[int] = ()) -> list[Job]:
        """Take up to `limit` queued jobs for `worker`, oldest first but in turn among clients: whoever was served longest ago comes next.

        None of the clients `without`.

        Any number of workers may claim at once; no job is taken twice. A claim that meets another one may get fewer than there are.
        """
        if limit < 1:
            return []
        candidates = next_in_turn(limit, without=without).cte("candidates")
        jobs = await self._all(
            update(JobRow)
            # SQLite has no FOR UPDATE SKIP LOCKED; there the status test here is what keeps a job from being taken twice.
            .where(JobRow.id.in_(select(candidates.c.id)), JobRow.status == JobStatus.QUEUED)
            .values(status=JobStatus.RUNNING, attempts=JobRow.attempts + 1, worker=worker, started_at=now, heartbeat_at=now)
            .returning(JobRow)
        )
        return sorted(jobs, key=lambda job: (job.created_at, job.id))

    async def heartbeat(self, job_ids: Collection[int], worker: str, *, now: datetime) -> set[int]:
        """Say that `worker` still runs these jobs. Returns the ids among them whose cancelling was requested."""
        if not job_ids:
            return set()
        beat = update(JobRow).where(JobRow.id.in_(job_ids), _run_by(worker)).values(heartbeat_at=now)
        rows = await self._session.execute(beat.returning(JobRow.id, JobRow.cancel_requested), execution_options=_AS_STORED)
        return {job_id for job_id, cancel_requested in rows if cancel_requested}

    async def finish(
        self,
        job_id: int,
        worker: str,
        *,
        now: datetime,
        generation_time_s: float,
        files_url: str | None = None,
        is_unsafe: bool | None = None,
        drawn: AnyRequest | None = None,
    ) -> Job | None:
        """Running to succeeded; None where `worker` does not run it any more. `drawn` takes the place of what was asked."""
        values: dict[str, object] = {"finished_at": now, "generation_time_s": generation_time_s, "files_url": files_url}
        values["is_unsafe"] = is_unsafe
        if drawn is not None:
            values["request"] = GENERATION_JSON.dump_json(drawn).decode()
        return await self._end(job_id, worker, status=JobStatus.SUCCEEDED, **values)

    async def fail(self, job_id: int, worker: str, reason: str, *, now: datetime) -> Job | None:
        """Running to failed, with a reason for the client; None where `worker` does not run it any more."""
        return await self._end(job_id, worker, status=JobStatus.FAILED, finished_at=now, error=reason)

    async def mark_cancelled(self, job_id: int, worker: str, *, now: datetime) -> Job | None:
        """Running to cancelled; None where `worker` does not run it any more."""
        return await self._end(job_id, worker, status=JobStatus.CANCELLED, finished_at=now)

    async def _end(self, job_id: int, worker: str, **values: object) -> Job | None:
        return await self._one(update(JobRow).where(JobRow.id == job_id, _run_by(worker)).values(**values).returning(JobRow))

    async def request_cancel(self, job_id: int, *, client_id: int | None, now: datetime) -> tuple[Job | None, bool]:
        """Cancel a queued job at once, ask a running one to stop, leave a final one. Returns the job after, and whether this ended it.

        None where there is none; with `client_id`, also where it is another key's.
        """
        queued = JobRow.status == JobStatus.QUEUED
        asked = (
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
            .values(
                cancel_requested=True,
                status=case((queued, literal(JobStatus.CANCELLED, JobRow.status.type)), else_=JobRow.status),
                finished_at=case((queued, literal(now, JobRow.finished_at.type)), else_=JobRow.finished_at),
            )
        )
        if client_id is not None:
            asked = asked.where(JobRow.client_id == client_id)
        changed = await self._one(asked.returning(JobRow))
        if changed is not None:
            return changed, changed.status.is_final
        return await self.get(job_id, client_id=client_id), False

    async def cancel_queued(self, *, now: datetime) -> list[Job]:
        """Cancel everything that waits, of all clients. Returns the jobs this ended."""
        waiting = update(JobRow).where(_locked(JobRow.status == JobStatus.QUEUED), JobRow.status == JobStatus.QUEUED)
        values = {"cancel_requested": True, "status": JobStatus.CANCELLED, "finished_at": now}
        return await self._all(waiting.values(**values).returning(JobRow))

    # -- going back to the queue --------------------------------------------------------------------------------------------------

    async def release(self, job_ids: Collection[int], worker: str, *, now: datetime) -> list[Job]:
        """Put the jobs `worker` still runs back into the queue, as if never begun; those to be cancelled end so, and are returned."""
        if not job_ids:
            return []
        held = (JobRow.id.in_(job_ids), _run_by(worker))
        ending = update(JobRow).where(*held, JobRow.cancel_requested).values(status=JobStatus.CANCELLED, finished_at=now)
        ended = await self._all(ending.returning(JobRow))
        await self._change(update(JobRow).where(*held).values(**_QUEUED_AGAIN, attempts=JobRow.attempts - 1))
        return ended

    async def requeue_stale(self, *, stale_before: datetime, max_attempts: int, now: datetime) -> tuple[list[int], list[Job]]:
        """Deal with running jobs whose last heartbeat is older than `stale_before`: their worker died.

        Returns the ids that are queued again, and the jobs that ended by it: failed after `max_attempts` attempts, or cancelled where
        that was requested.
        """
        stale = (JobRow.status == JobStatus.RUNNING, JobRow.heartbeat_at < stale_before)
        cancelled = await self._all(
            update(JobRow)
            .where(_locked(*stale, JobRow.cancel_requested.is_(True)), *stale)
            .values(status=JobStatus.CANCELLED, finished_at=now)
            .returning(JobRow)
        )
        reason = f"The server stopped unexpectedly while drawing this, {max_attempts} times."
        failed = await self._all(
            update(JobRow)
            .where(_locked(*stale, JobRow.attempts >= max_attempts), *stale)
            .values(status=JobStatus.FAILED, finished_at=now, error=reason)
            .returning(JobRow)
        )
        requeued = await self._all(update(JobRow).where(_locked(*stale), *stale).values(**_QUEUED_AGAIN).returning(JobRow))
        return [job.id for job in requeued], cancelled + failed

    # -- the queue as a whole -----------------------------------------------------------------------------------------------------

    async def queued_count(self, client_id: int | None = None) -> int:
        """How many jobs wait, of this key or of all."""
        counted = select(func.count()).select_from(JobRow).where(JobRow.status == JobStatus.QUEUED)
        return await self._session.scalar(counted if client_id is None else counted.where(JobRow.client_id == client_id)) or 0

    # -- retention ----------------------------------------------------------------------------------------------------------------

    async def expired(self, before: datetime, limit: int, *, temporary_before: datetime | None = None) -> list[Job]:
        """Jobs that ended before this moment (or, being temporary, before the other) and whose files are still there, oldest first."""
        old = JobRow.finished_at < before
        if temporary_before is not None:
            old = or_(old, and_(JobRow.is_temporary.is_(True), JobRow.finished_at < temporary_before))
        kept = select(JobRow).where(JobRow.files_removed.is_(False), old, JobRow.status.in_(_FINAL))
        return await self._all(kept.order_by(JobRow.finished_at).limit(limit))

    async def mark_files_removed(self, job_ids: Collection[int]) -> None:
        """Record that these jobs' files are gone."""
        if job_ids:
            await self._change(update(JobRow).where(JobRow.id.in_(job_ids)).values(files_removed=True))

    async def delete_finished_before(self, before: datetime, limit: int) -> int:
        """Forget up to `limit` jobs that ended before this moment, oldest first; never one whose files are still there. How many."""
        old = _locked(JobRow.files_removed.is_(True), JobRow.finished_at < before, oldest=limit)
        deleted = await self._session.scalars(delete(JobRow).where(old).returning(JobRow.id), execution_options=_AS_STORED)
        return len(deleted.all())

    # -- rows to values -----------------------------------------------------------------------------------------------------------

    async def _all(self, statement: Select[JobRow] | ReturningUpdate[JobRow]) -> list[Job]:
        return [_job(row) for row in await self._session.scalars(statement, execution_options=_AS_STORED)]

    async def _one(self, statement: Select[JobRow] | ReturningUpdate[JobRow]) -> Job | None:
        row = (await self._session.scalars(statement, execution_options=_AS_STORED)).one_or_none()
        return None if row is None else _job(row)

    async def _change(self, statement: Update) -> None:
        await self._session.execute(statement, execution_options=_AS_STORED)


_AS_STORED: Final = {"synchronize_session": False, "populate_existing": True}
"""Never answer from what the session remembers: another process may have changed the row since."""

_QUEUED_AGAIN: Final[dict[str, Any]] = {"status": JobStatus.QUEUED, "worker": None, "started_at": None, "heartbeat_at": None}


def _run_by(worker: str) -> ColumnElement[bool]:
    return and_(JobRow.status == JobStatus.RUNNING, JobRow.worker == worker)


def _locked(*where: ColumnElement[bool], oldest: int | None = None) -> ColumnElement[bool]:
    """Picks the rows of `where`, less those another process is changing; so two that change many rows at once can't deadlock."""
    picked = select(JobRow.id).where(*where).order_by(JobRow.finished_at, JobRow.id).limit(oldest)
    return JobRow.id.in_(select(picked.with_for_update(skip_locked=True).cte().c.id))


def _job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        client_id=row.client_id,
        dialect=row.dialect,
        request=GENERATION_JSON.validate_json(row.request),
        status=row.status,
        cost=row.cost,
        output_names=tuple(row.output_names),
        public_url=row.public_url,
        echo=row.echo,
        attempts=row.attempts,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        generation_time_s=row.generation_time_s,
        error=row.error,
        files_removed=row.files_removed,
        webhook_url=row.webhook_url,
        is_temporary=row.is_temporary,
        files_url=row.files_url,
        is_unsafe=row.is_unsafe,
    )
