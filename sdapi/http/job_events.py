"""The server-sent events of one job: a full look at each change of state, progress in between, then the end.

FastAPI's own event format, in a response made here rather than by its generator routes: a browser that comes back after the last
event must get 204, which a generator route can't answer, and one loop needs no task of its own to keep the connection alive.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import JsonValue

from sdapi.domain.errors import QueueFull
from sdapi.domain.job import Job, JobStatus

from .provided import Jobs, Watch

T = TypeVar("T")
Look = Callable[[Job], Awaitable[dict[str, JsonValue]]]
"""The full look at a job."""

_MAX_STREAMS_PER_CLIENT = 64
_RETRY_MS = 3000
_PROGRESS_GAP_S = 0.25
_POLL_S = 1.0
"""How often the table is looked at, for jobs another process runs."""
_KEEPALIVE_S = 15.0
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class StreamLimit:
    """How many streams each key may hold open in this process: every one of them looks at the table once a second."""

    def __init__(self, most: int = _MAX_STREAMS_PER_CLIENT) -> None:
        self._most = most
        self._open: Counter[int] = Counter()

    @contextmanager
    def held(self, client_id: int) -> Iterator[None]:
        """Count one stream while the context lasts. Raises QueueFull."""
        if self._open[client_id] >= self._most:
            raise QueueFull(retry_after_s=math.ceil(_RETRY_MS / 1000), reason="This key has as many event streams open as it may")
        self._open[client_id] += 1
        try:
            yield
        finally:
            self._open[client_id] -= 1
            if not self._open[client_id]:
                del self._open[client_id]


def is_over(job: Job, last_event_id: str | None) -> bool:
    """Whether the client has had the last event already: browsers come back whenever a stream ends, until they get 204."""
    return job.status.is_final and last_event_id == job.status.value


def event_stream(job: Job, jobs: Jobs, watch: Watch, look: Look) -> EventSourceResponse:
    """The stream about `job`, of which `watch` notices the changes; the caller keeps it open until the response was sent."""
    return EventSourceResponse(_Follower(job, jobs, watch, look).events(), headers=_HEADERS)


class _Follower:
    """What one listener has been told, and what it is to be told next."""

    def __init__(self, job: Job, jobs: Jobs, watch: Watch, look: Look) -> None:
        self._job = job
        self._jobs = jobs
        self._watch = watch
        self._look = look
        self._looked_at = 0.0
        self._spoke_at = 0.0
        self._eta_s = 0.0
        self._position = 0

    async def events(self) -> AsyncIterator[bytes]:
        """Ends with the job, or when the server is asked to stop."""
        await _to_its_end(self._refresh)
        told_state, told_progress = _state(self._job), self._progress()
        yield await self._state_event(retry_ms=_RETRY_MS)
        while not (self._job.status.is_final or self._watch.closing):
            changed = await self._watch.wait(_PROGRESS_GAP_S) or await self._watch.wait(_POLL_S - _PROGRESS_GAP_S, or_step=True)
            if changed or time.monotonic() - self._looked_at >= _POLL_S:
                await _to_its_end(self._refresh)
            progress = self._progress()
            if _state(self._job) != told_state:
                told_state, told_progress = _state(self._job), progress
                yield await self._state_event()
            elif progress != told_progress:
                told_progress = progress
                yield self._progress_event(progress)
            elif time.monotonic() - self._spoke_at >= _KEEPALIVE_S:
                self._spoke_at = time.monotonic()
                yield KEEPALIVE_COMMENT

    async def _refresh(self) -> None:
        self._job = await self._jobs.fetch(self._job.id, client_id=None)
        self._eta_s = await self._jobs.eta_s(self._job)
        self._position = await self._jobs.position(self._job) if self._job.status is JobStatus.QUEUED else 0
        self._looked_at = time.monotonic()

    def _progress(self) -> dict[str, JsonValue]:
        """Without the seconds to go, which change all the time."""
        progress = self._jobs.progress(self._job.id)
        return {
            "step": progress.step if progress else None,
            "steps": progress.steps if progress else None,
            "position": self._position,
        }

    async def _state_event(self, *, retry_ms: int | None = None) -> bytes:
        return self._event("state", await _to_its_end(lambda: self._look(self._job)), event_id=self._job.status.value, retry_ms=retry_ms)

    def _progress_event(self, progress: Mapping[str, JsonValue]) -> bytes:
        # Steps come faster than the table is asked; in between the clock tells.
        eta_s = max(0.0, self._eta_s - (time.monotonic() - self._looked_at))
        event_id = f"{self._job.status.value}.{progress['step'] or 0}"
        return self._event("progress", {**progress, "eta": round(eta_s, 2)}, event_id=event_id)

    def _event(self, name: str, data: Mapping[str, JsonValue], *, event_id: str, retry_ms: int | None = None) -> bytes:
        self._spoke_at = time.monotonic()
        return format_sse_event(data_str=json.dumps(data), event=name, id=event_id, retry=retry_ms)


def _state(job: Job) -> tuple[object, ...]:
    return job.status, job.cancel_requested, job.started_at


async def _to_its_end(look: Callable[[], Awaitable[T]]) -> T:
    """A client that goes away cancels its stream; in the middle of a transaction that would abandon a database connection."""
    with anyio.CancelScope(shield=True):
        seen = await look()
    return seen  # noqa: RET504 - for mypy a context manager that may swallow errors must not contain the return
