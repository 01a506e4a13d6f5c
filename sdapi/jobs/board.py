"""What this process knows of the jobs it runs or waits for: faster than asking the database, never the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Event

from sdapi.domain.progress import Progress


@dataclass(frozen=True)
class Preview:
    """A small picture of what a job is becoming."""

    jpeg: bytes
    made_at_s: float
    """By the clock of whoever made it."""


@dataclass
class _RunningHere:
    """What is known of a job only while it runs in this process."""

    cancelled: Event = field(default_factory=Event)
    progress: Progress | None = None
    preview: Preview | None = None


class JobBoard:
    """Wake-ups, progress, previews and cancellation between the parts that submit, run and wait. For the event loop's thread."""

    def __init__(self) -> None:
        self.work_arrived = asyncio.Event()
        """Set when a job was queued here, so that the dispatcher need not wait for its next poll."""
        self.closing = asyncio.Event()
        """Set when the server was asked to stop: nobody should wait for pictures any more."""
        self._watches: dict[int, set[Watch]] = {}
        self._running: dict[int, _RunningHere] = {}

    def started(self, job_id: int) -> Event:
        """A job begins to run here; the event returned is set when somebody cancels it."""
        running = self._running.setdefault(job_id, _RunningHere())
        self.changed(job_id)
        return running.cancelled

    def report(self, job_id: int, progress: Progress) -> None:
        """How far a job is; tells those who watch its steps."""
        if running := self._running.get(job_id):
            running.progress = progress
            for watch in self._watches.get(job_id, ()):
                watch.notify_step()

    def keep_preview(self, job_id: int, preview: Preview) -> None:
        """Show this to whoever asks next; forgotten when the job ends."""
        if running := self._running.get(job_id):
            running.preview = preview

    def ended(self, job_id: int) -> None:
        """A job is final or back in the queue; wake whoever waits for it."""
        self._running.pop(job_id, None)
        self.changed(job_id)

    def changed(self, job_id: int) -> None:
        """Wake whoever waits for the job, to look at it again."""
        for watch in self._watches.get(job_id, ()):
            watch.notify()

    def cancel(self, job_id: int) -> None:
        """Ask the job to stop at its next step, if it runs here."""
        if running := self._running.get(job_id):
            running.cancelled.set()

    def progress(self, job_id: int) -> Progress | None:
        """Steps done, for a job that runs here."""
        running = self._running.get(job_id)
        return None if running is None else running.progress

    def preview(self, job_id: int) -> Preview | None:
        """The last picture kept of a job that runs here."""
        running = self._running.get(job_id)
        return None if running is None else running.preview

    @asynccontextmanager
    async def watch(self, job_id: int) -> AsyncIterator[Watch]:
        """Notice every change of the job while the context lasts, also one that comes between looking and waiting."""
        watch = Watch(self.closing)
        self._watches.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    def watched(self) -> int:
        """How many jobs somebody watches."""
        return len(self._watches)


class Watch:
    """One waiting call's view of one job."""

    def __init__(self, closing: asyncio.Event) -> None:
        self._closing = closing
        self._changed = asyncio.Event()
        self._stepped = asyncio.Event()

    @property
    def closing(self) -> bool:
        """Whether the server was asked to stop."""
        return self._closing.is_set()

    def notify(self) -> None:
        """The job changed."""
        self._changed.set()

    def notify_step(self) -> None:
        """The job made a step."""
        self._stepped.set()

    async def wait(self, timeout_s: float, *, or_step: bool = False) -> bool:
        """Return when the job has changed since the last call, the server closes, or the time is over.

        With `or_step` also when it has made a step since the last call with it. Whether it was a change, or the closing.
        """
        events = [self._changed, self._closing, *([self._stepped] if or_step else [])]
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when the caller is cancelled, as a stream is whose client went away.
            for wait in waits:
                wait.cancel()
        was_change = self._changed.is_set() or self._closing.is_set()
        self._changed.clear()
        if or_step:
            self._stepped.clear()
        return was_change
