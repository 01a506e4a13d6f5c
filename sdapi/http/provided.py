"""What the routes need from the composition root, so that this package depends on no implementation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sdapi.api_keys import ApiKey
from sdapi.dialects.base import Asked, Dialect
from sdapi.domain.job import Job
from sdapi.domain.progress import Progress
from sdapi.jobs.call import Call
from sdapi.storage import Storage

from .limits import HttpLimits


class Watch(Protocol):
    """One listener's view of one job."""

    @property
    def closing(self) -> bool:
        """Whether the server was asked to stop."""

    async def wait(self, timeout_s: float, *, or_step: bool = False) -> bool:
        """Return when the job has changed, the server closes, with `or_step` when a step was made, or when the time is over.

        Whether it was a change, or the closing.
        """


class Previews(Protocol):
    """Small pictures of jobs that are being drawn."""

    async def jpeg(self, job_id: int) -> bytes | None:
        """What the job is becoming; None where there is nothing to see in this process."""


class Jobs(Protocol):
    """Submit, wait, fetch, cancel. Jobs of other clients are never found: those raise JobNotFound."""

    async def submit(self, asked: Asked, call: Call) -> Job:
        """Record the job. Raises InvalidRequest, ModelNotFound, QueueFull, ImageRefused."""

    async def hold(self, job: Job) -> Job:
        """Hold on for its picture unless that would take longer than the sync wait."""

    async def wait(self, job: Job, *, timeout_s: float) -> Job:
        """The job when it is final, or as it is after `timeout_s`."""

    async def fetch(self, job_id: int, *, client_id: int | None) -> Job:
        """`client_id` None finds anybody's. Raises JobNotFound."""

    async def eta_s(self, job: Job) -> float:
        """Seconds until the picture is there, as far as can be told; 0 for a final job."""

    async def position(self, job: Job) -> int:
        """How many jobs come before it."""

    def progress(self, job_id: int) -> Progress | None:
        """How far a running job is; None when it isn't running here."""

    def watch(self, job_id: int) -> AbstractAsyncContextManager[Watch]:
        """Notice what happens to the job while the context lasts."""

    async def cancel(self, job_id: int, *, client_id: int) -> Job:
        """Ask for a stop; a final job stays as it is. Raises JobNotFound."""

    async def list_for_client(self, client_id: int, limit: int) -> Sequence[Job]:
        """The client's newest jobs first."""

    async def promised(self, name: str) -> Job | None:
        """The job that makes, or made, the picture of this name in storage."""


class ApiKeys(Protocol):
    """Knows which keys are valid."""

    async def authenticate(self, plain: str) -> ApiKey | None:
        """None for an unknown or revoked key."""


class Services(Protocol):
    """What lies in `app.state.services` while the app runs."""

    @property
    def jobs(self) -> Jobs:
        """The queue."""

    @property
    def previews(self) -> Previews:
        """Looks at what is being drawn."""

    @property
    def api_keys(self) -> ApiKeys:
        """The keys."""

    @property
    def dialects(self) -> Mapping[str, Dialect]:
        """By their names."""

    @property
    def storage(self) -> Storage:
        """The pictures."""

    @property
    def limits(self) -> HttpLimits:
        """The settings of this edge."""

    async def problem(self) -> str | None:
        """Why the process should be restarted, or None."""

    async def not_ready(self) -> Sequence[str]:
        """Why nothing can be drawn now; empty when it can."""
