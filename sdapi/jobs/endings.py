"""What else happens when a job ends: its webhook is written into the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from sdapi.dialects.base import Dialect, webhook_body
from sdapi.domain.job import DialectName, Job
from sdapi.webhooks import enqueue


class Endings:
    """Used by everything that ends jobs, inside its transaction: either both are recorded or neither."""

    def __init__(self, dialects: Mapping[DialectName, Dialect], now: Callable[[], datetime]) -> None:
        self._dialects = dialects
        self._now = now

    def announce(self, session: AsyncSession, jobs: Iterable[Job]) -> None:
        """Write the webhooks of these jobs, which have just become final."""
        for job in jobs:
            if job.webhook_url is not None:
                body = webhook_body(self._dialects[job.dialect], job)
                enqueue(session, url=job.webhook_url, body=body, now=self._now(), job_id=job.id)
