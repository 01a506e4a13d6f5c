"""What this process knows of the jobs it runs or waits for: faster than asking the database, never the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event

from sdapi.domain.progress import Progress


class JobBoard:
    """Wake-ups, progress and cancellation between the parts that submit, run and wait. For the event loop's thread."""

    def __init__(self) -> None:
        self.work_arrived = asyncio.Event()
        """Set when a job was queued here, so that the dispatcher need not wait for its next poll."""
        self.closing = asyncio.Event()
        """Set when the server was asked to stop: nobody should wait for pictures any more."""
        self._watches: dict[int, set[Watch]] = {}
        self._progress: dict[int, Progress] = {}
        self._cancel: dict[int, Event] = {}

    def started(self, job_id: int) -> Event:
        """A job begins to run here; the event returned is set when somebody cancels it."""
        return self._cancel.setdefault(job_id, Event())

    def report(self, job_id: int, progress: Progress) -> None:
        """How far a job is."""
        if job_id in self._cancel:
            self._progress[job_id] = progress

    def ended(self, job_id: int) -> None:
        """A job is final or back in the queue; wake whoever waits for it."""
        self._cancel.pop(job_id, None)
        self._progress.pop(job_id, None)
        self.changed(job_id)

    def changed(self, job_id: int) -> None:
        """Wake whoever waits for the job, to look at it again."""
        for watch in self._watches.get(job_id, ()):
            watch.notify()

    def cancel(self, job_id: int) -> None:
        """Ask the job to stop at its next step, if it runs here."""
        if event := self._cancel.get(job_id):
            event.set()

    def progress(self, job_id: int) -> Progress | None:
        """Steps done, for a job that runs here."""
        return self._progress.get(job_id)

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


class Watch:
    """One waiting call's view of one job."""

    def __init__(self, closing: asyncio.Event) -> None:
        self._closing = closing
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """The job changed."""
        self._changed.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when the job has changed since the last call, the server closes, or the time is over."""
        waits = [asyncio.create_task(self._changed.wait()), asyncio.create_task(self._closing.wait())]
        await asyncio.wait(waits, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._changed.clear()
