"""A job: one accepted request, from queue to picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import JsonValue

from .generation import AnyRequest


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


DialectName = str
"""The HTTP dialect a job came in by ("goapi", "v3", ...), at most 16 characters; its answers are rendered in the same one."""


@dataclass(frozen=True)
class NewJob:
    """A job about to be recorded."""

    client_id: int
    """Row id of the API key."""
    dialect: DialectName
    request: AnyRequest
    cost: float
    """Work in UNet forwards times megapixels; what eta and fairness reckon with."""
    output_names: tuple[str, ...]
    """Names in storage the pictures will have, fixed now so that links can be promised."""
    public_url: str
    """Base of the links in answers, without a trailing slash."""
    echo: Mapping[str, JsonValue] = field(default_factory=dict)
    """What the dialect needs to repeat to the client later (the model id as it was asked for, ...)."""
    webhook_url: str | None = None
    is_temporary: bool = False
    """Whether its files are kept for a day only."""
    idempotency_key: str | None = None
    """A later request of the same client with this key joins this job."""


@dataclass(frozen=True)
class Job:
    """A recorded job as it stood when it was read."""

    id: int
    client_id: int
    dialect: DialectName
    request: AnyRequest
    status: JobStatus
    cost: float
    output_names: tuple[str, ...]
    public_url: str
    echo: Mapping[str, JsonValue]
    attempts: int
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    generation_time_s: float | None
    """Seconds of drawing, once succeeded."""
    error: str | None
    """Why it failed, in words for the client."""
    files_removed: bool
    """Whether retention has removed its pictures."""
    webhook_url: str | None = None
    is_temporary: bool = False
    files_url: str | None = None
    """Where its pictures can be had directly, as a base without a trailing slash; None: only through this server."""
    is_unsafe: bool | None = None
    """Whether a picture of it was found unsafe, and is covered; None where nobody has looked."""
