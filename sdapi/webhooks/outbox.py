"""Every SQL statement about webhooks.

A delivery belongs to whoever moved its `next_try_at` into the future, until then. `attempts` tells one lease from the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import httpx
from pydantic import JsonValue
from sqlalchemy import Update, and_, case, delete, exists, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from sdapi.db.tables import WebhookRow

from .urls import host_of

_ENDED_AT_ONCE: Final = 1000
_AS_STORED: Final = {"synchronize_session": False}


@dataclass(frozen=True)
class Delivery:
    """One call to make, leased to who got it."""

    id: str
    job_id: int | None
    url: str
    host: str
    body: bytes
    attempt: int
    """Counts from 1."""
    created_at: datetime


def enqueue(session: AsyncSession, *, url: str, body: Mapping[str, JsonValue], now: datetime, job_id: int | None = None) -> str:
    """Have `body` sent to `url` once the transaction of `session` is committed; the id of the delivery.

    `url` comes from `checked_url`. Wake the sender after the commit; without that the delivery is found at its next look.
    """
    try:
        host = host_of(url)
    except (httpx.InvalidURL, UnicodeError):
        host = ""  # sending will fail and say why; here it would take the end of a job with it
    row = WebhookRow(
        id=str(uuid4()),
        job_id=job_id,
        url=url,
        host=host[:255],
        # ASCII with escapes: a client's text may hold NUL or half a surrogate pair, which not every database stores.
        body=json.dumps(body, separators=(",", ":")),
        attempts=0,
        created_at=now,
        next_try_at=now,
        delivered_at=None,
        last_error=None,
    )
    session.add(row)
    return row.id


class Outbox:
    """The webhooks table, within the transaction of `session`; the caller commits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def any_due(self, now: datetime) -> bool:
        """Whether anything waits to be sent now. Only reads."""
        return bool(await self._session.scalar(select(exists().where(WebhookRow.next_try_at <= now))))

    async def claim(
        self, limit: int, *, troubled: bool, rooms: Mapping[str, int], room_per_host: int, now: datetime, lease: timedelta
    ) -> list[Delivery]:
        """Take up to `limit` deliveries that are due, for the length of `lease`: of every host its oldest, then its second, and so on.

        `troubled` chooses between the hosts where a delivery has failed and is to be tried again, and all others. Of each host at most
        `rooms` says, or else `room_per_host`. Any number of processes may claim at once; no delivery is taken twice.
        """
        if limit < 1:
            return []
        failing = aliased(WebhookRow)
        with_failures = select(failing.host).where(failing.next_try_at.is_not(None), failing.last_error.is_not(None))
        is_troubled = WebhookRow.host.in_(with_failures)
        ranked = (
            select(
                WebhookRow.id,
                WebhookRow.host,
                func.row_number().over(partition_by=WebhookRow.host, order_by=(WebhookRow.next_try_at, WebhookRow.id)).label("round"),
            )
            .where(WebhookRow.next_try_at <= now, is_troubled if troubled else ~is_troubled)
            .subquery()
        )
        room = case(dict(rooms), value=ranked.c.host, else_=room_per_host) if rooms else literal(room_per_host)
        candidates = (
            select(WebhookRow.id)
            .join(ranked, ranked.c.id == WebhookRow.id)
            .where(WebhookRow.next_try_at <= now, ranked.c.round <= room)
            .order_by(ranked.c.round, WebhookRow.next_try_at, WebhookRow.id)
            .limit(limit)
            # PostgreSQL allows no FOR UPDATE beside a window function, so the ranks come from a subquery and only this table is locked.
            .with_for_update(of=WebhookRow, skip_locked=True)
            .cte("candidates")
        )
        claimed = await self._session.scalars(
            update(WebhookRow)
            # SQLite has no FOR UPDATE SKIP LOCKED; there the time here is what keeps a delivery from being taken twice.
            .where(WebhookRow.id.in_(select(candidates.c.id)), WebhookRow.next_try_at <= now)
            .values(next_try_at=now + lease, attempts=WebhookRow.attempts + 1)
            .returning(WebhookRow),
            execution_options=_AS_STORED,
        )
        return sorted((_delivery(row) for row in claimed), key=lambda delivery: (delivery.created_at, delivery.id))

    async def delivered(self, delivery: Delivery, *, now: datetime) -> None:
        """It has arrived, whoever holds the lease by now."""
        arrived = update(WebhookRow).where(WebhookRow.id == delivery.id, WebhookRow.delivered_at.is_(None))
        await self._change(arrived.values(next_try_at=None, delivered_at=now, last_error=None))

    async def failed(self, delivery: Delivery, reason: str, *, next_try_at: datetime | None) -> bool:
        """It has not arrived and is tried again at that time, or never. False where the lease had run out and somebody else tries."""
        return await self._change(_held(delivery).values(next_try_at=next_try_at, last_error=reason))

    async def release(self, delivery: Delivery, *, now: datetime) -> None:
        """Leave it to whoever comes next, at once."""
        await self._change(_held(delivery).values(next_try_at=now))

    async def give_up(self, *, failed_since: datetime, never_tried_since: datetime, now: datetime) -> list[str]:
        """End some deliveries that are due but older than these times, so that what a dead host was sent does not pile up. Their ids."""
        failed = and_(WebhookRow.last_error.is_not(None), WebhookRow.created_at < failed_since)
        old = or_(failed, WebhookRow.created_at < never_tried_since)
        some = (
            select(WebhookRow.id)
            .where(WebhookRow.next_try_at <= now, old)
            .limit(_ENDED_AT_ONCE)
            .with_for_update(skip_locked=True)
            .cte("some")
        )
        reason = func.coalesce(WebhookRow.last_error, "its turn did not come in time")
        ended = update(WebhookRow).where(WebhookRow.id.in_(select(some.c.id))).values(next_try_at=None, last_error=reason)
        return list(await self._session.scalars(ended.returning(WebhookRow.id), execution_options=_AS_STORED))

    async def delete_ended(self, before: datetime) -> int:
        """Delete some of what was written before that time and is delivered or given up; how many, 0 when none are left."""
        ended = select(WebhookRow.id).where(WebhookRow.next_try_at.is_(None), WebhookRow.created_at < before)
        some = ended.limit(_ENDED_AT_ONCE).with_for_update(skip_locked=True).cte("some")
        deleted = delete(WebhookRow).where(WebhookRow.id.in_(select(some.c.id))).returning(WebhookRow.id)
        return len((await self._session.scalars(deleted, execution_options=_AS_STORED)).all())

    async def _change(self, statement: Update) -> bool:
        return await self._session.scalar(statement.returning(WebhookRow.id), execution_options=_AS_STORED) is not None


def _held(delivery: Delivery) -> Update:
    """The row, while the lease of `delivery` is the latest one and nothing has ended it."""
    return update(WebhookRow).where(
        WebhookRow.id == delivery.id, WebhookRow.attempts == delivery.attempt, WebhookRow.next_try_at.is_not(None)
    )


def _delivery(row: WebhookRow) -> Delivery:
    return Delivery(
        id=row.id,
        job_id=row.job_id,
        url=row.url,
        host=row.host,
        body=row.body.encode(),
        attempt=row.attempts,
        created_at=row.created_at,
    )
