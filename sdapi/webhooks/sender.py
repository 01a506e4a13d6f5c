"""Sends what is in the outbox: claim -> post -> record, many at once, and never many to one host."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import httpx
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.address_guard import AddressRefused

from .outbox import Delivery, Outbox
from .signature import sign

_log = logging.getLogger(__name__)

_JITTER = 0.2
_WRITTEN_AT_ONCE = 2
_NEVER_TRIED_FOR = 24
"""A delivery no process had time for waits so many times longer than one that was tried and failed: the receiver is not to blame."""


@dataclass(frozen=True)
class DeliveryTimes:
    """How long a receiver may take, and when it is asked again."""

    timeout_s: float = 30.0
    """For the whole exchange, up to the status line and headers of the answer."""
    lease_s: float = 60.0
    """After which a delivery belongs to a process that died; well over `timeout_s`."""
    retry_for: timedelta = timedelta(hours=1)
    """From the moment a delivery was written."""
    first_pause_s: float = 1.0
    """After the first try; doubled after each further one."""
    longest_pause_s: float = 600.0
    poll_s: float = 1.0
    stop_grace_s: float = 5.0

    def __post_init__(self) -> None:
        if self.lease_s <= self.timeout_s:
            raise ValueError("lease_s must be longer than timeout_s")

    def pause(self, attempt: int) -> timedelta:
        """How long to wait after try number `attempt` failed, give or take a little: what failed together need not come back together."""
        doubled = min(self.first_pause_s * 2.0 ** min(attempt - 1, 32), self.longest_pause_s)
        return timedelta(seconds=doubled * random.uniform(1 - _JITTER, 1 + _JITTER))


@dataclass(frozen=True)
class _Taken:
    """The receiver answered 2xx."""


@dataclass(frozen=True)
class _Failed:
    """It did not, and this is why. Holds no URL."""

    reason: str


@dataclass(frozen=True)
class _Interrupted:
    """The server stopped before there was an answer."""


class WebhookSender:
    """One per process; any number of processes share the outbox.

    A host gets `max_parallel_per_host` requests at once, and the hosts where something has failed get half of all of them together: so
    neither a slow receiver nor many dead ones keep the others waiting. Every delivery arrives once or, around crashes, more often.
    """

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        client: httpx.AsyncClient,
        secret: bytes,
        now: Callable[[], datetime],
        times: DeliveryTimes | None = None,
        max_parallel: int = 64,
        max_parallel_per_host: int = 4,
    ) -> None:
        self._sessions = sessions
        self._client = client
        self._secret = secret
        self._now = now
        self._times = times or DeliveryTimes()
        self._max_parallel = max_parallel
        self._max_parallel_per_host = max_parallel_per_host
        self._under_way: dict[asyncio.Task[None], Delivery] = {}
        self._to_troubled: set[asyncio.Task[None]] = set()
        self._timeouts: set[asyncio.Timeout] = set()
        # Many may be answered at once; what they write must not take every connection from those who answer clients.
        self._writing = asyncio.Semaphore(_WRITTEN_AT_ONCE)
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._giving_up = False
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._loop = asyncio.create_task(self._run(), name="webhooks")

    def wake(self) -> None:
        """Something was committed to the outbox: send it now rather than at the next look."""
        self._work.set()

    def problem(self) -> str | None:
        """Why nothing is sent, or None."""
        return "the webhooks loop ended" if self._loop is not None and self._loop.done() and not self._stopping.is_set() else None

    async def stop(self) -> None:
        """Let requests under way finish for the grace time, leave the rest to the next process, and return. The client is still open."""
        self._stopping.set()
        self._work.set()
        if self._loop is not None:
            await asyncio.wait([self._loop])
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=self._times.stop_grace_s)
        self._giving_up = True
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())
        if self._under_way:
            await asyncio.wait(list(self._under_way))

    async def clean_up(self, before: datetime) -> int:
        """Delete deliveries written before that time that have arrived or were given up; how many."""
        total = 0
        while True:
            async with self._sessions.begin() as session:
                deleted = await Outbox(session).delete_ended(before)
            total += deleted
            if not deleted or self._stopping.is_set():
                return total

    async def _run(self) -> None:
        while not self._stopping.is_set():
            self._work.clear()
            try:
                await self._claim()
            except (OSError, SQLAlchemyError):
                _log.exception("claiming webhooks failed, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.poll_s):
                    await self._work.wait()

    async def _claim(self) -> None:
        room = self._max_parallel - len(self._under_way)
        if room < 1:
            return
        now = self._now()
        async with self._sessions() as session:
            # Reading takes no lock, so a server that has nothing to send never holds up a writer.
            if not await Outbox(session).any_due(now):
                return
        claim = partial(
            Outbox.claim,
            rooms=self._rooms(),
            room_per_host=self._max_parallel_per_host,
            now=now,
            lease=timedelta(seconds=self._times.lease_s),
        )
        async with self._sessions.begin() as session:
            outbox = Outbox(session)
            given_up = await outbox.give_up(
                failed_since=now - self._times.retry_for, never_tried_since=now - self._times.retry_for * _NEVER_TRIED_FOR, now=now
            )
            fresh = await claim(outbox, room, troubled=False)
            room_for_troubled = min(room - len(fresh), max(1, self._max_parallel // 2) - len(self._to_troubled))
            again = await claim(outbox, room_for_troubled, troubled=True)
        if given_up:
            _log.warning("webhooks given up before another try", extra={"count": len(given_up), "deliveries": given_up[:20]})
        for delivery in fresh:
            self._begin(delivery)
        for delivery in again:
            self._to_troubled.add(self._begin(delivery))

    def _rooms(self) -> Mapping[str, int]:
        """How many more requests each host may get that gets some now."""
        busy = Counter(delivery.host for delivery in self._under_way.values())
        return {host: max(0, self._max_parallel_per_host - count) for host, count in busy.items()}

    def _begin(self, delivery: Delivery) -> asyncio.Task[None]:
        task = asyncio.create_task(self._deliver(delivery), name=f"webhook-{delivery.id}")
        self._under_way[task] = delivery
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._to_troubled.discard(task)
        self._work.set()

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._record(delivery, await self._post(delivery))
        except Exception:  # noqa: BLE001
            # Nothing may come out of one delivery's task into the others; its lease runs out and it is tried again.
            _log.exception("recording a webhook failed", extra={"delivery": delivery.id})

    async def _post(self, delivery: Delivery) -> _Taken | _Failed | _Interrupted:
        headers = {
            "Content-Type": "application/json",
            "X-SDAPI-Delivery": delivery.id,
            "X-SDAPI-Attempt": str(delivery.attempt),
            "X-SDAPI-Signature": sign(self._secret, delivery.body),
        }
        if self._giving_up:
            return _Interrupted()
        timeout = asyncio.timeout(self._times.timeout_s)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                # The status is all that counts: the body is not read, and the connection is closed under it.
                request = self._client.stream("POST", delivery.url, content=delivery.body, headers=headers, follow_redirects=False)
                async with request as response:
                    return _Taken() if response.is_success else _Failed(f"the receiver answered {response.status_code}")
        except TimeoutError:
            return _Interrupted() if self._giving_up else _Failed("the receiver did not answer in time")
        except AddressRefused:
            return _Failed("the host is not at a public address")
        except Exception as failure:  # noqa: BLE001
            # Besides HTTPError and InvalidURL a hostile URL makes the layers below raise anything, ExceptionGroup and OverflowError
            # included. Whatever it is, it was a failed try. Its text may hold the URL, so the kind must do.
            return _Failed(f"no understandable answer ({type(failure).__name__})")
        finally:
            self._timeouts.discard(timeout)

    async def _record(self, delivery: Delivery, outcome: _Taken | _Failed | _Interrupted) -> None:
        now = self._now()
        about = {"delivery": delivery.id, "job_ids": [delivery.job_id], "host": delivery.host, "attempt": delivery.attempt}
        match outcome:
            case _Taken():
                async with self._writing, self._sessions.begin() as session:
                    await Outbox(session).delivered(delivery, now=now)
                _log.info("webhook delivered", extra=about)
            case _Failed(reason):
                next_try_at = now + self._times.pause(delivery.attempt)
                is_last = next_try_at > delivery.created_at + self._times.retry_for
                async with self._writing, self._sessions.begin() as session:
                    held = await Outbox(session).failed(delivery, reason, next_try_at=None if is_last else next_try_at)
                if is_last and held:
                    _log.warning("webhook given up", extra={**about, "reason": reason})
                else:
                    _log.info("webhook failed, to be tried again", extra={**about, "reason": reason})
            case _Interrupted():
                async with self._writing, self._sessions.begin() as session:
                    await Outbox(session).release(delivery, now=now)
