"""Submitting, waiting for, finding and cancelling jobs: what the HTTP edge asks for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.dialects.base import Asked, Dialect
from sdapi.domain.errors import JobNotFound, QueueFull
from sdapi.domain.generation import AnyRequest, Upscale
from sdapi.domain.job import DialectName, Job, NewJob
from sdapi.domain.progress import Progress
from sdapi.quotas import Quotas
from sdapi.storage import Storage
from sdapi.webhooks import checked_url

from .board import JobBoard, Watch
from .call import Call
from .endings import Endings
from .estimates import cost_of
from .eta import Estimator, QueueLoad
from .repository import JobRepository
from .requests import RequestBuilder

_POLL_S = 1.0
"""How often a waiting call looks at the table, for jobs another process runs."""


@dataclass(frozen=True)
class QueueLimits:
    """What the queue takes and how long calls are held."""

    max_queued_jobs: int
    sync_wait_s: float


class JobService:
    """The queue as its users see it. Every method opens its own transaction."""

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        dialects: Mapping[DialectName, Dialect],
        requests: RequestBuilder,
        quotas: Quotas,
        storage: Storage,
        board: JobBoard,
        estimator: Estimator,
        endings: Endings,
        on_end: Callable[[Job], None],
        limits: QueueLimits,
        now: Callable[[], datetime],
    ) -> None:
        """`on_end` is told of every job that a call here made final, after its row was committed."""
        self._sessions = sessions
        self._dialects = dialects
        self._requests = requests
        self._quotas = quotas
        self._storage = storage
        self._board = board
        self._estimator = estimator
        self._endings = endings
        self._on_end = on_end
        self._limits = limits
        self._now = now

    async def submit(self, asked: Asked, call: Call) -> Job:
        """Record a job as queued, or join the one that was made with the same idempotency key.

        Input images are fetched first, so a bad one ends here and a restart needs no second download.
        Raises ModelNotFound, InvalidRequest, ImageRefused, QueueFull; then nothing was recorded.
        """
        if (joined := await self._joined(call)) is not None:
            return joined
        if asked.webhook is not None:
            checked_url("webhook", asked.webhook)
        await self._quotas.admit(call.client, path=call.path, body=call.body)
        await self._refuse_when_full()
        request = await self._requests.build(asked, public_url=call.public_url)
        try:
            return await self._record(asked, call, request)
        except IntegrityError:
            # A call with the same idempotency key was faster.
            await self._requests.discard(request.input_names)
            if (joined := await self._joined(call)) is None:
                raise
            return joined
        except BaseException:
            await self._requests.discard(request.input_names)
            raise

    async def hold(self, job: Job) -> Job:
        """Hold the call until the picture is there, at most the sync wait; not at all when the queue is longer than that."""
        if await self.eta_s(job) > self._limits.sync_wait_s:
            return job
        return await self.wait(job, timeout_s=self._limits.sync_wait_s)

    async def wait(self, job: Job, *, timeout_s: float) -> Job:
        """The job when it is final, or as it stands after `timeout_s`, or when the server is about to stop."""
        deadline = time.monotonic() + timeout_s
        async with self._board.watch(job.id) as watch:
            job = await self.fetch(job.id, client_id=None)
            while not (job.status.is_final or self._board.closing.is_set()) and (left := deadline - time.monotonic()) > 0:
                await watch.wait(min(left, _POLL_S))
                job = await self.fetch(job.id, client_id=None)
        return job

    async def fetch(self, job_id: int, *, client_id: int | None) -> Job:
        """The job; `client_id` given, only if it is that key's own. Raises JobNotFound."""
        async with self._sessions() as session:
            job = await JobRepository(session).get(job_id, client_id=client_id)
        if job is None:
            raise JobNotFound
        return job

    async def cancel(self, job_id: int, *, client_id: int) -> Job:
        """A queued job is cancelled at once, a running one after its current step. Raises JobNotFound."""
        async with self._sessions.begin() as session:
            job, has_ended = await JobRepository(session).request_cancel(job_id, client_id=client_id, now=self._now())
            self._endings.announce(session, [job] if job is not None and has_ended else [])
        if job is None:
            raise JobNotFound
        self._board.cancel(job_id)
        self._board.changed(job_id)
        if has_ended:
            self._on_end(job)
        return job

    async def clear_queue(self) -> int:
        """Cancel everything that waits, of all clients. How many jobs that ended."""
        async with self._sessions.begin() as session:
            ended = await JobRepository(session).cancel_queued(now=self._now())
            self._endings.announce(session, ended)
        for job in ended:
            self._board.changed(job.id)
            self._on_end(job)
        return len(ended)

    async def remove_pictures(self, job_id: int, *, client_id: int) -> None:
        """Remove a finished job's pictures, the ones it started from included. Raises JobNotFound, also while it isn't finished."""
        job = await self.fetch(job_id, client_id=client_id)
        if not job.status.is_final:
            raise JobNotFound
        for name in (*job.output_names, *job.request.input_names):
            await self._storage.delete(name)
        async with self._sessions.begin() as session:
            await JobRepository(session).mark_files_removed([job.id])

    async def list_for_client(self, client_id: int, limit: int) -> list[Job]:
        """The key's newest jobs."""
        async with self._sessions() as session:
            return await JobRepository(session).list_for_client(client_id, limit)

    async def promised(self, name: str) -> Job | None:
        """The job that makes or made the picture of that storage name."""
        async with self._sessions() as session:
            return await JobRepository(session).by_output_name(name)

    async def eta_s(self, job: Job) -> float:
        """Seconds until the job is done, by what is before it and the speed of late; 0 when it is final."""
        return await self._estimator.eta_s(job)

    async def position(self, job: Job) -> int:
        """How many jobs are drawn or waiting before it; 0 when it is running or final."""
        return await self._estimator.position(job)

    def watch(self, job_id: int) -> AbstractAsyncContextManager[Watch]:
        """Notice what happens to the job while the context lasts."""
        return self._board.watch(job_id)

    async def queue_load(self) -> QueueLoad:
        """How much is waiting and running, and for how long."""
        return await self._estimator.queue_load()

    def progress(self, job_id: int) -> Progress | None:
        """Steps done, when the job runs in this process."""
        return self._board.progress(job_id)

    async def _joined(self, call: Call) -> Job | None:
        if call.idempotency_key is None:
            return None
        async with self._sessions() as session:
            return await JobRepository(session).by_idempotency_key(call.client.id, call.idempotency_key)

    async def _refuse_when_full(self) -> None:
        async with self._sessions() as session:
            if await JobRepository(session).queued_count() >= self._limits.max_queued_jobs:
                raise QueueFull(retry_after_s=max(1, round(self._limits.sync_wait_s)))

    async def _record(self, asked: Asked, call: Call, request: AnyRequest) -> Job:
        new = self._new_job(asked, call, request)
        await self._quotas.take_pictures(call.client, request.samples)
        try:
            async with self._sessions.begin() as session:
                await self._quotas.refuse_beyond_queued(session, call.client)
                job = await JobRepository(session).add(new, now=self._now())
        except BaseException:
            await self._quotas.give_back_pictures(call.client, request.samples)
            raise
        self._board.work_arrived.set()
        return job

    def _new_job(self, asked: Asked, call: Call, request: AnyRequest) -> NewJob:
        token = str(uuid.uuid4())
        model_id = request.upscaler if isinstance(request, Upscale) else self._requests.model_id(asked)
        told: dict[str, JsonValue] = {"endpoint": asked.endpoint, "model_id": model_id, "file_prefix": token}
        return NewJob(
            client_id=call.client.id,
            dialect=call.dialect,
            request=request,
            cost=cost_of(request),
            output_names=self._dialects[call.dialect].output_names(asked, token, self._now()),
            public_url=call.public_url,
            echo={**asked.echo, **told},
            webhook_url=asked.webhook,
            is_temporary=asked.temp,
            idempotency_key=call.idempotency_key,
        )
