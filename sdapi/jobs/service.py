"""Submitting, waiting for, finding and cancelling jobs: what the HTTP edge asks for."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from PIL import Image
from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.catalog import Catalog, Checkpoint
from sdapi.dialects import goapi
from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest, JobNotFound, QueueFull
from sdapi.domain.generation import MAX_STEPS, Img2Img, Txt2Img
from sdapi.domain.job import DialectName, Job, JobStatus, NewJob
from sdapi.domain.progress import Progress
from sdapi.remote_images import RemoteImages
from sdapi.storage import Storage

from .board import JobBoard
from .estimates import cost_left, cost_of, eta_s, speed_of
from .repository import JobRepository

_POLL_S = 1.0
"""How often a waiting call looks at the table, for jobs another process runs."""
_OUTPUT_NAME: Mapping[DialectName, Callable[[int, str], str]] = {DialectName.GOAPI: goapi.output_name}


@dataclass(frozen=True)
class QueueLimits:
    """What the queue takes and how long calls are held."""

    default_model: str
    max_queued_jobs: int
    sync_wait_s: float
    drawn_at_once: int
    """Pictures the engine keeps in flight."""


class JobService:
    """The queue as its users see it. Every method opens its own transaction."""

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        catalog: Catalog,
        images: RemoteImages,
        storage: Storage,
        board: JobBoard,
        limits: QueueLimits,
        now: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._catalog = catalog
        self._images = images
        self._storage = storage
        self._board = board
        self._limits = limits
        self._now = now

    async def submit(self, asked: Asked, *, client_id: int, dialect: DialectName, public_url: str) -> Job:
        """Record a job as queued. Input images are fetched first, so a bad one ends here and a restart needs no second download.

        Raises ModelNotFound, InvalidRequest, ImageRefused, QueueFull; then nothing was recorded.
        """
        model_id = asked.model_id or self._limits.default_model
        checkpoint = await asyncio.to_thread(self._catalog.get, model_id)
        if asked.lora_models:
            raise InvalidRequest.of("lora_model", f"There is no LoRA named {asked.lora_models[0]!r} on this server.")
        await self._refuse_when_full()
        request = await self._domain_request(asked, checkpoint, public_url)
        token = str(uuid.uuid4())
        echo: dict[str, JsonValue] = {"model_id": model_id}
        new = NewJob(
            client_id=client_id,
            dialect=dialect,
            request=request,
            cost=cost_of(request),
            output_names=tuple(_OUTPUT_NAME[dialect](i, token) for i in range(request.samples)),
            public_url=public_url,
            echo=echo,
        )
        try:
            async with self._sessions.begin() as session:
                job = await JobRepository(session).add(new, now=self._now())
        except Exception:
            # No row will ever lead retention to the input picture.
            if isinstance(request, Img2Img):
                await self._storage.delete(request.init_image)
            raise
        self._board.work_arrived.set()
        return job

    async def submit_and_wait(self, asked: Asked, *, client_id: int, dialect: DialectName, public_url: str) -> Job:
        """Submit, then hold the call until the picture is there, at most the sync wait; not at all when the queue is longer than that."""
        job = await self.submit(asked, client_id=client_id, dialect=dialect, public_url=public_url)
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
            job = await JobRepository(session).request_cancel(job_id, client_id=client_id, now=self._now())
        if job is None:
            raise JobNotFound
        self._board.cancel(job_id)
        self._board.changed(job_id)
        return job

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
        if job.status.is_final:
            return 0.0
        async with self._sessions() as session:
            repository = JobRepository(session)
            ahead = await repository.ahead_of(job)
            drawn = await repository.recently_drawn()
        return eta_s(
            own=cost_left(job.cost, self.progress(job.id)),
            ahead=[cost_left(cost, self.progress(job_id)) for job_id, cost in ahead],
            shared_by=self._limits.drawn_at_once,
            speed=speed_of(drawn),
        )

    async def position(self, job: Job) -> int:
        """How many jobs are drawn or waiting before it; 0 when it is running or final."""
        if job.status is not JobStatus.QUEUED:
            return 0
        async with self._sessions() as session:
            return len(await JobRepository(session).ahead_of(job))

    def progress(self, job_id: int) -> Progress | None:
        """Steps done, when the job runs in this process."""
        return self._board.progress(job_id)

    async def _refuse_when_full(self) -> None:
        async with self._sessions() as session:
            if await JobRepository(session).queued_count() >= self._limits.max_queued_jobs:
                raise QueueFull(retry_after_s=max(1, round(self._limits.sync_wait_s)))

    async def _domain_request(self, asked: Asked, checkpoint: Checkpoint, public_url: str) -> Txt2Img | Img2Img:
        """What is asked, with the checkpoint's own defaults and words, and a concrete seed."""
        prompt = f"{checkpoint.trigger} {asked.prompt}" if checkpoint.trigger else asked.prompt
        common: dict[str, object] = {
            "checkpoint": checkpoint.id,
            "prompt": prompt,
            "negative_prompt": asked.negative_prompt,
            "width": asked.width,
            "height": asked.height,
            "seed": secrets.randbits(32) if asked.seed is None else asked.seed,
            "samples": asked.samples,
            "steps": min(asked.steps or checkpoint.steps or asked.default_steps, MAX_STEPS),
            "guidance_scale": asked.guidance_scale or checkpoint.guidance_scale or 7.5,
            "clip_skip": asked.clip_skip,
        }
        if asked.kind == "txt2img":
            return Txt2Img.model_validate(common)
        if asked.init_image is None:
            raise InvalidRequest.of("init_image", "The init_image field is required.")
        picture = await self._images.load("init_image", asked.init_image, public_url=public_url)
        name = f"inputs/{uuid.uuid4()}.png"
        await self._storage.save(name, await asyncio.to_thread(_fitted_png, picture, (asked.width, asked.height)))
        return Img2Img.model_validate({**common, "init_image": name, "strength": asked.strength})


def _fitted_png(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """The input picture at the size it is drawn at, stretched as diffusers and A1111 do."""
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
