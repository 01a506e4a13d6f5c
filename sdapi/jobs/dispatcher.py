"""Claims queued jobs, has them drawn, stores the pictures and records the end: claim -> draw -> store -> finish."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from threading import Event

from PIL import Image
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.domain.errors import SdapiError
from sdapi.domain.job import Job
from sdapi.engine.base import Cancelled, Drawn, Engine, Failed, Work
from sdapi.mp4 import encode_mp4
from sdapi.picture_encoding import encode_picture
from sdapi.storage import Storage

from .board import JobBoard
from .endings import Endings
from .fairness import is_anybody_waiting
from .png_texts import PngTexts
from .repository import JobRepository

_log = logging.getLogger(__name__)

_POLL_S = 0.5
"""How often the queue is looked at for jobs other processes have put there."""

_PLACES_FOR_NEWCOMERS = 4
"""Pictures that a full engine is given beyond its room, of clients nothing of whom it has: else they would wait until one of a busy
client's ends, which may take longer than their own."""


@dataclass(frozen=True)
class DispatchTimes:
    """How the queue is kept healthy."""

    heartbeat_s: float
    stale_after_s: float
    max_attempts: int
    stop_grace_s: float


class Dispatcher:
    """One per process. Its loops are asked to stop, never cancelled: a cancelled transaction leaves rows behind."""

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        engine: Engine,
        storage: Storage,
        board: JobBoard,
        times: DispatchTimes,
        png_texts: PngTexts,
        endings: Endings,
        on_end: Callable[[Job], None],
        now: Callable[[], datetime],
    ) -> None:
        """`on_end` is told of every job that became final, after its row was committed."""
        self._sessions = sessions
        self._engine = engine
        self._storage = storage
        self._board = board
        self._times = times
        self._png_texts = png_texts
        self._endings = endings
        self._on_end = on_end
        self._now = now
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._running: dict[int, asyncio.Task[None]] = {}
        self._clients: dict[int, int] = {}
        """Whose each of these is."""
        self._newcomers: dict[int, int] = {}
        """Of these, the pictures of those taken beyond the engine's room."""
        self._preparing = 0
        """Pictures claimed that the engine has not been given yet: its room does not know of them."""
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()
        self._giving_up = False
        self._loops: list[asyncio.Task[None]] = []
        self._encoders = ThreadPoolExecutor(2, thread_name_prefix="sdapi-png")

    def start(self) -> None:
        """Begin to claim, to send heartbeats and to look for jobs whose process died."""
        self._loops = [
            asyncio.create_task(self._claim_loop(), name="claim"),
            asyncio.create_task(self._every(self._times.heartbeat_s, self._heartbeat), name="heartbeat"),
            asyncio.create_task(self._every(self._times.stale_after_s / 3, self._sweep), name="sweep"),
        ]

    def problem(self) -> str | None:
        """Why no job is being processed, or None when all loops are alive."""
        for loop in self._loops:
            if loop.done() and not self._stopping.is_set():
                return f"the {loop.get_name()} loop ended"
        return None

    def begin_stop(self) -> None:
        """Claim nothing more."""
        self._stopping.set()
        self._board.work_arrived.set()

    async def stop(self) -> None:
        """Let running pictures finish for the grace time, put the rest back into the queue, and return."""
        self.begin_stop()
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=self._times.stop_grace_s)
        self._giving_up = True
        await self._engine.stop()
        if self._running:
            await asyncio.wait(list(self._running.values()))
        self._finished.set()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._encoders.shutdown()

    async def _claim_loop(self) -> None:
        while not self._stopping.is_set():
            self._board.work_arrived.clear()
            try:
                await self._claim()
            except (OSError, SQLAlchemyError):
                _log.exception("claiming failed, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._board.work_arrived.wait()

    async def _claim(self) -> None:
        while not self._stopping.is_set() and (room := self._engine.room() - self._preparing) > 0:
            if not await self._take(room):
                return
        while not self._stopping.is_set() and self._clients and sum(self._newcomers.values()) < _PLACES_FOR_NEWCOMERS:
            here = set(self._clients.values())
            async with self._sessions() as session:
                if not await is_anybody_waiting(session, without=here):
                    return
            jobs = await self._take(1, without=here)
            if not jobs:
                return
            self._newcomers |= {job.id: job.request.samples for job in jobs}

    async def _take(self, limit: int, *, without: Collection[int] = ()) -> list[Job]:
        """Claim so many and begin to process them."""
        async with self._sessions.begin() as session:
            jobs = await JobRepository(session).claim(self._worker, limit, now=self._now(), without=without)
        for job in jobs:
            task = asyncio.create_task(self._process(job), name=f"job-{job.id}")
            self._running[job.id] = task
            self._clients[job.id] = job.client_id
            task.add_done_callback(partial(self._forget, job.id))
        self._preparing += sum(job.request.samples for job in jobs)
        return jobs

    def _forget(self, job_id: int, _: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        self._clients.pop(job_id, None)
        self._newcomers.pop(job_id, None)
        self._board.work_arrived.set()

    async def _process(self, job: Job) -> None:
        cancelled = self._board.started(job.id)
        try:
            outcome, files_url = await self._draw_and_store(job, cancelled)
            await self._record(job, outcome, files_url)
        except Exception:  # noqa: BLE001
            # Nothing may come out of one job's task into the others; the row stays running and the sweep requeues it.
            _log.exception("recording a job failed", extra={"job_ids": [job.id]})
        finally:
            self._board.ended(job.id)

    async def _draw_and_store(self, job: Job, cancelled: Event) -> tuple[Drawn | Failed | Cancelled, str | None]:
        """What came of it, and where its pictures can be had directly. Files first, row second: a recorded success has its pictures."""
        files_url = None
        try:
            try:
                work = Work(
                    job.id,
                    job.request,
                    init_image=await self._picture(getattr(job.request, "init_image", None), "RGB"),
                    mask_image=await self._picture(getattr(job.request, "mask_image", None), "L"),
                    control_image=await self._picture(getattr(job.request, "control_image", None), "RGB"),
                    client_id=job.client_id,
                )
            finally:
                self._preparing -= job.request.samples
            outcome = await self._engine.draw(work, lambda progress: self._board.report(job.id, progress), cancelled)
            if isinstance(outcome, Drawn):
                job = job if outcome.request is None else replace(job, request=outcome.request)
                # Asked before they are stored: should the bucket change meanwhile, the former one is read from, too.
                files_url = await self._storage.public_base()
                await self._store(job, outcome)
        except SdapiError as error:
            return Failed(str(error)), None
        except Exception:  # noqa: BLE001
            # Failures of one job are values from here on, whatever they were.
            _log.exception("a job failed", extra={"job_ids": [job.id]})
            return Failed("an internal error, see the server's log"), None
        return outcome, files_url

    async def _picture(self, name: str | None, mode: str) -> Image.Image | None:
        """An input picture from storage; None for a request that has none of its kind."""
        if name is None:
            return None
        data = await self._storage.load(name)
        return await asyncio.to_thread(lambda: Image.open(io.BytesIO(data)).convert(mode))

    async def _store(self, job: Job, drawn: Drawn) -> None:
        texts = await self._png_texts.of(job, drawn)
        if drawn.film is not None:
            film = await asyncio.get_running_loop().run_in_executor(self._encoders, encode_mp4, drawn.film, texts[0])
            await self._storage.save(job.output_names[0], film)
            return
        asked = job.request
        for name, image, text in zip(job.output_names, drawn.images, texts, strict=True):
            encode = partial(encode_picture, image, asked.output_format, quality=asked.output_quality, parameters=text)
            data = await asyncio.get_running_loop().run_in_executor(self._encoders, encode)
            if name.endswith(".base64"):
                data = await asyncio.to_thread(base64.b64encode, data)
            await self._storage.save(name, data)

    async def _record(self, job: Job, outcome: Drawn | Failed | Cancelled, files_url: str | None) -> None:
        ended: Job | None = None
        async with self._sessions.begin() as session:
            repository = JobRepository(session)
            match outcome:
                case Drawn(seconds=seconds, unsafe=unsafe, request=drawn):
                    ended = await repository.finish(
                        job.id,
                        self._worker,
                        now=self._now(),
                        generation_time_s=seconds,
                        files_url=files_url,
                        is_unsafe=None if unsafe is None else any(unsafe),
                        drawn=drawn,
                    )
                case Failed(reason):
                    ended = await repository.fail(job.id, self._worker, reason, now=self._now())
                case Cancelled() if self._giving_up:
                    ended = next(iter(await repository.release([job.id], self._worker, now=self._now())), None)
                case Cancelled():
                    ended = await repository.mark_cancelled(job.id, self._worker, now=self._now())
            self._endings.announce(session, [ended] if ended else [])
        if ended is not None:
            _log.info("job ended", extra={"job_ids": [job.id], "outcome": ended.status.value})
            self._on_end(ended)
        elif isinstance(outcome, Cancelled) and self._giving_up:
            _log.info("job queued again", extra={"job_ids": [job.id]})
        else:
            _log.warning("somebody else ended the job", extra={"job_ids": [job.id]})

    async def _heartbeat(self) -> None:
        if not self._running:
            return
        async with self._sessions.begin() as session:
            to_cancel = await JobRepository(session).heartbeat(list(self._running), self._worker, now=self._now())
        for job_id in to_cancel:
            self._board.cancel(job_id)

    async def _sweep(self) -> None:
        now = self._now()
        async with self._sessions.begin() as session:
            requeued, failed = await JobRepository(session).requeue_stale(
                stale_before=now - timedelta(seconds=self._times.stale_after_s), max_attempts=self._times.max_attempts, now=now
            )
            self._endings.announce(session, failed)
        if requeued:
            _log.warning("jobs of a process that died are queued again", extra={"job_ids": requeued})
            self._board.work_arrived.set()
        for job in failed:
            _log.error("a job was given up", extra={"job_ids": [job.id], "attempts": job.attempts})
            self._board.changed(job.id)
            self._on_end(job)

    async def _every(self, interval_s: float, action: Callable[[], Awaitable[None]]) -> None:
        """Until all work has ended; a database that is away for a while is logged and tried again."""
        while not self._finished.is_set():
            try:
                await action()
            except (OSError, SQLAlchemyError):
                _log.exception("a periodic task failed, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._finished.wait()
