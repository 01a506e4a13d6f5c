"""Admission of what a key asks for: how often, how often the same, how many pictures, how much of it waiting."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Final

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.api_keys import ApiKey
from sdapi.db.tables import JobRow
from sdapi.domain.errors import InvalidRequest, QueueFull
from sdapi.domain.job import JobStatus
from sdapi.domain.limits import KeyLimits
from sdapi.domain.sent_file import SentFile

from .windows import SqlWindows

_REPEATED: Final = "you are sending same request multiple times, spam filter is enabled"
"""The hosted API's words; clients match on them."""
_QUEUED_RETRY_S: Final = 30
"""What the hosted API tells clients whose queue is full."""
_SUBMITS_LOCK: Final = 0x71756F74
"""First half of the PostgreSQL advisory lock that a key's submits take in turn; the second is the key's id."""
_ROUNDING_S: Final = 0.001
_BATCH: Final = 5000


class Quotas:
    """The limits of all keys: a key's own, else `defaults`. What is refused takes nothing; a limit of 0 costs no SQL.

    `repeats_per_30_s` is how often one client may send the same request in that time.
    """

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], *, defaults: KeyLimits, repeats_per_30_s: int, now: Callable[[], datetime]
    ) -> None:
        self._sessions = sessions
        self._defaults = defaults
        self._repeats_per_30_s = repeats_per_30_s
        self._now = now

    async def admit(self, client: ApiKey, *, path: str, body: Mapping[str, object]) -> None:
        """Count a call that creates something. Raises QueueFull when the client calls too often, or the same too often."""
        hits: list[tuple[RateLimitItem, str, str]] = []
        if a_minute := client.limits.over(self._defaults).requests_per_minute:
            sentence = f"Maximum {a_minute} requests per minute allowed"
            hits.append((RateLimitItemPerMinute(a_minute, namespace="requests"), str(client.id), sentence))
        if self._repeats_per_30_s:
            # Off the loop: a body may hold megabytes of pictures.
            fingerprint = await asyncio.to_thread(_fingerprint, path, body)
            hits.append((RateLimitItemPerSecond(self._repeats_per_30_s, 30, "repeats"), f"{client.id}/{fingerprint}", _REPEATED))
        if not hits:
            return
        async with self._sessions.begin() as session:
            windows = SqlWindows(session, self._now())
            limiter = SlidingWindowCounterRateLimiter(windows)
            for item, counted, reason in hits:
                if not await limiter.hit(item, counted):
                    # Leaving by an exception rolls back: what the second limit refuses does not count in the first.
                    raise QueueFull(await _wait_s(windows, item, counted), reason)

    async def take_pictures(self, client: ApiKey, count: int) -> None:
        """Count pictures that are about to be asked for, all of them or none. Raises QueueFull beyond those of the day, in UTC."""
        most = client.limits.over(self._defaults).daily_pictures
        if not most or count < 1:
            return
        now = self._now()
        left_s = _rest_of_day_s(now)
        async with self._sessions.begin() as session:
            if await SqlWindows(session, now).incr(_pictures_of(client), left_s, count) > most:
                raise QueueFull(max(1, math.ceil(left_s)), f"Maximum {most} pictures per day allowed")

    async def give_back_pictures(self, client: ApiKey, count: int) -> None:
        """Undo `take_pictures` after all, for a request that was not recorded in the end."""
        if not client.limits.over(self._defaults).daily_pictures or count < 1:
            return
        async with self._sessions.begin() as session:
            await SqlWindows(session, self._now()).decr(_pictures_of(client), count)

    async def refuse_beyond_queued(self, session: AsyncSession, client: ApiKey) -> None:
        """Raise QueueFull when as many jobs of the key wait as may.

        `session` is the transaction, begun for writing, that will add the job: until it ends, no other submit of the key gets past here.
        """
        most = client.limits.over(self._defaults).max_queued_jobs
        if not most:
            return
        # SQLite lets one transaction write at a time anyway.
        if session.get_bind().dialect.name == "postgresql":
            await session.execute(select(func.pg_advisory_xact_lock(_SUBMITS_LOCK, client.id)))
        queued = select(func.count()).where(JobRow.client_id == client.id, JobRow.status == JobStatus.QUEUED)
        if (await session.scalar(queued) or 0) >= most:
            raise QueueFull(_QUEUED_RETRY_S, f"Maximum {most} queued requests allowed")

    async def clean_up(self, now: datetime) -> int:
        """Forget the windows that are over; how many there were."""
        removed = 0
        while True:
            async with self._sessions.begin() as session:
                batch = await SqlWindows(session, now).delete_expired(_BATCH)
            removed += batch
            if batch < _BATCH:
                return removed


async def _wait_s(windows: SqlWindows, item: RateLimitItem, counted: str) -> int:
    """Whole seconds until a refused hit is let through, if nobody else comes first; 1 to the length of the window.

    The limiter's own estimate names the real clock's time, and the very moment of a change, at which the hit is still refused.
    """
    length_s = item.get_expiry()
    previous, _, current, current_ttl = await windows.get_sliding_window(item.key_for(counted), length_s)
    # Free as soon as the window before weighs less than what this one leaves; at its end, this one is the one before.
    earlier_s = (item.amount - current) * length_s / previous if previous else 0.0
    free_in_s = current_ttl - length_s - earlier_s
    return min(math.floor(free_in_s + _ROUNDING_S) + 1, length_s)


def _fingerprint(path: str, body: Mapping[str, object]) -> str:
    """Equal for requests that ask for the same, whatever the order of their fields and wherever the API key is sent."""
    fields = {name: value for name, value in body.items() if name != "key"}
    try:
        canonical = json.dumps([path.rstrip("/"), fields], sort_keys=True, separators=(",", ":"), default=_identity)
    except RecursionError as error:  # the body could be read, but with less left of the stack it can't be written
        raise InvalidRequest.of("body", "The body is nested too deeply.") from error
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _identity(value: object) -> object:
    """What stands for a value that JSON has no form for: of a file, what is in it and not what it was called."""
    return {"sha256": value.sha256} if isinstance(value, SentFile) else str(value)


def _rest_of_day_s(now: datetime) -> float:
    midnight = datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)
    return (midnight - now).total_seconds()


def _pictures_of(client: ApiKey) -> str:
    return f"pictures/{client.id}"
