"""A job service, keys and services small enough to see through, for the routes alone; tests/api runs the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from fastapi import FastAPI

from sdapi.api_keys import ApiKey
from sdapi.db.tables import KeyRole
from sdapi.dialects import goapi
from sdapi.dialects.base import Asked, Dialect, ReadLimits
from sdapi.domain.errors import JobNotFound
from sdapi.domain.generation import Img2Img, Txt2Img
from sdapi.domain.job import Job, JobStatus
from sdapi.domain.limits import OwnLimits
from sdapi.domain.progress import Progress
from sdapi.http import error_handlers, provided
from sdapi.http.limits import HttpLimits
from sdapi.http.routers import all_routers
from sdapi.http.slashes import SlashTolerance
from sdapi.jobs.board import JobBoard, Watch
from sdapi.jobs.call import Call
from sdapi.services import DIALECTS
from sdapi.storage import LocalStorage

if TYPE_CHECKING:
    from sdapi.services import Services

KEY = "sd_good"
ENTERPRISE_KEY = "sd_enterprise"
CLIENT_ID = 7
LIMITS = HttpLimits(
    max_body_bytes=65_536,
    max_file_bytes=49_152,
    reading=ReadLimits(max_side_px=1024),
    sync_wait_s=20,
    fetch_requires_key=False,
    standard_error_status=False,
    public_url=None,
)


def the_real_services_fit(services: Services) -> provided.Services:
    """For mypy: what the composition root builds is what the routes are written against."""
    return services


def a_job(**changes: object) -> Job:
    """A succeeded txt2img job; say only what the test is about."""
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    job = Job(
        id=28225389,
        client_id=CLIENT_ID,
        dialect=goapi.NAME,
        request=Txt2Img(checkpoint="demo", prompt="a cat", negative_prompt="blurry", seed=4107109214),
        status=JobStatus.SUCCEEDED,
        cost=1.0,
        output_names=("sd/0-one.png",),
        public_url="http://here",
        echo={"model_id": "midjourney"},
        attempts=1,
        cancel_requested=False,
        created_at=at,
        started_at=at,
        finished_at=at,
        generation_time_s=6.53,
        error=None,
        files_removed=False,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def an_img2img(**changes: object) -> Img2Img:
    values = {"checkpoint": "demo", "prompt": "a cat", "seed": 1, "init_image": "inputs/i.png", "strength": 0.8}
    return Img2Img.model_validate(values | changes)


@dataclass
class FakeJobs:
    """Keeps jobs in a dict; a submitted job becomes `outcome` at once."""

    outcome: JobStatus = JobStatus.SUCCEEDED
    refusal: Exception | None = None
    when_waited: Callable[[Job], Job] = lambda job: job
    jobs: dict[int, Job] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    board: JobBoard = field(default_factory=JobBoard)
    after_looks: dict[int, Job] = field(default_factory=dict)
    """What a job has become by the so-manieth time it is fetched, without anybody saying so."""
    looks: int = 0

    def add(self, job: Job) -> Job:
        self.jobs[job.id] = job
        return job

    async def submit(self, asked: Asked, call: Call) -> Job:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(asked)
        job = a_job(
            id=100 + len(self.jobs),
            client_id=call.client.id,
            dialect=call.dialect,
            public_url=call.public_url,
            status=self.outcome,
            echo={"endpoint": asked.endpoint, "model_id": asked.model_id or "demo", "file_prefix": "one", **asked.echo},
        )
        return self.add(job)

    async def hold(self, job: Job) -> Job:
        return job

    async def wait(self, job: Job, *, timeout_s: float) -> Job:
        self.waited_s.append(timeout_s)
        return self.add(self.when_waited(job))

    async def fetch(self, job_id: int, *, client_id: int | None) -> Job:
        self.looks += 1
        if self.looks in self.after_looks:
            self.add(self.after_looks[self.looks])
        job = self.jobs.get(job_id)
        if job is None or client_id not in (None, job.client_id):
            raise JobNotFound
        return job

    async def eta_s(self, job: Job) -> float:
        return 0.0 if job.status.is_final else 12.3456

    async def position(self, job: Job) -> int:
        return [other.id for other in self.jobs.values() if not other.status.is_final].index(job.id)

    def progress(self, job_id: int) -> Progress | None:
        return Progress(step=4, steps=30) if self.jobs[job_id].status is JobStatus.RUNNING else None

    def watch(self, job_id: int) -> AbstractAsyncContextManager[Watch]:
        return self.board.watch(job_id)

    async def cancel(self, job_id: int, *, client_id: int) -> Job:
        return self.add(replace(await self.fetch(job_id, client_id=client_id), status=JobStatus.CANCELLED))

    async def list_for_client(self, client_id: int, limit: int) -> list[Job]:
        return [job for job in self.jobs.values() if job.client_id == client_id][:limit]

    async def promised(self, name: str) -> Job | None:
        return next((job for job in self.jobs.values() if name in job.output_names), None)


@dataclass
class FakePreviews:
    """Has these pictures to show."""

    jpegs: dict[int, bytes] = field(default_factory=dict)

    async def jpeg(self, job_id: int) -> bytes | None:
        return self.jpegs.get(job_id)


class FakeKeys:
    """One key is good, and one is an enterprise key."""

    async def authenticate(self, plain: str) -> ApiKey | None:
        roles: dict[str, KeyRole] = {KEY: "user", ENTERPRISE_KEY: "enterprise"}
        at = datetime(2024, 5, 1, 12, tzinfo=UTC)
        role = roles.get(plain)
        return None if role is None else ApiKey(CLIENT_ID, "test", role, plain[:8], at, None, OwnLimits())


@dataclass
class FakeServices:
    storage: LocalStorage
    jobs: FakeJobs = field(default_factory=FakeJobs)
    previews: FakePreviews = field(default_factory=FakePreviews)
    api_keys: FakeKeys = field(default_factory=FakeKeys)
    limits: HttpLimits = LIMITS
    trouble: str | None = None
    dialects: Mapping[str, Dialect] = field(default_factory=lambda: {dialect.NAME: dialect for dialect in DIALECTS})

    async def problem(self) -> str | None:
        return self.trouble

    async def not_ready(self) -> list[str]:
        return [] if self.trouble is None else [self.trouble]


def fake_services(folder: Path) -> FakeServices:
    return FakeServices(storage=LocalStorage(folder))


@asynccontextmanager
async def http_client(services: provided.Services) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app made of the routers, the error handlers and these services."""
    app = FastAPI(redirect_slashes=False)
    for router in all_routers(DIALECTS):
        app.include_router(router)
    error_handlers.install(app)
    app.add_middleware(SlashTolerance)
    app.state.services = services
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
