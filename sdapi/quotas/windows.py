"""Counters that expire, in SQL: where the `limits` library keeps what it counts."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor

from limits.aio.storage import SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow
from sqlalchemy import case, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from sdapi.db.tables import RateWindowRow


class SqlWindows(Storage, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """The windows table at the moment `now`, within the transaction of `session`; by rolling back, the caller takes back what was counted.

    Behaves as the library's MemoryStorage does, except that of hits that race exactly as many go through as there is room for.
    """

    STORAGE_SCHEME = None  # not to be found by URL: it needs a session

    def __init__(self, session: AsyncSession, now: datetime) -> None:
        super().__init__()
        self._session = session
        self._now = now

    @property
    def base_exceptions(self) -> type[Exception]:
        """See Storage."""
        return SQLAlchemyError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """See Storage."""
        count = await self._add(key, expiry, amount, at_most=None)
        return amount if count is None else count

    async def decr(self, key: str, amount: int = 1) -> int:
        """Take back `amount` of what was counted in the current window, as far as there is so much; the count then."""
        less = case((RateWindowRow.count > amount, RateWindowRow.count - amount), else_=0)
        current = update(RateWindowRow).where(RateWindowRow.key == key, RateWindowRow.expires_at > self._now)
        return await self._session.scalar(current.values(count=less).returning(RateWindowRow.count)) or 0

    async def get(self, key: str) -> int:
        """See Storage."""
        current = select(RateWindowRow.count).where(RateWindowRow.key == key, RateWindowRow.expires_at > self._now)
        return await self._session.scalar(current) or 0

    async def get_expiry(self, key: str) -> float:
        """See Storage."""
        expires_at = await self._session.scalar(select(RateWindowRow.expires_at).where(RateWindowRow.key == key))
        return (expires_at or self._now).timestamp()

    async def check(self) -> bool:
        """See Storage."""
        await self._session.execute(select(1))
        return True

    async def reset(self) -> int | None:
        """See Storage."""
        return len((await self._session.scalars(delete(RateWindowRow).returning(RateWindowRow.key))).all())

    async def clear(self, key: str) -> None:
        """See Storage."""
        await self._session.execute(delete(RateWindowRow).where(RateWindowRow.key == key))

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See SlidingWindowCounterSupport."""
        at = self._now.timestamp()
        previous_key, current_key = self.sliding_window_keys(key, expiry, at)
        # Nothing is added to the previous window any more, so only the current one's count can be raced for.
        room = limit - floor(await self.get(previous_key) * _previous_ttl(at, expiry) / expiry)
        if amount > room:
            return False
        return await self._add(current_key, 2 * expiry, amount, at_most=room) is not None

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See SlidingWindowCounterSupport."""
        at = self._now.timestamp()
        previous_key, current_key = self.sliding_window_keys(key, expiry, at)
        previous, current = await self.get(previous_key), await self.get(current_key)
        previous_ttl = _previous_ttl(at, expiry) if previous else 0.0
        return previous, previous_ttl, current, (1 - at / expiry % 1) * expiry + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """See SlidingWindowCounterSupport."""
        for window_key in self.sliding_window_keys(key, expiry, self._now.timestamp()):
            await self.clear(window_key)

    async def delete_expired(self, most: int) -> int:
        """Forget up to `most` windows that are over; how many there were."""
        # Rows that others have locked are left for the next time: waiting for them in another order than theirs could deadlock.
        expired = select(RateWindowRow.key).where(RateWindowRow.expires_at <= self._now).limit(most).with_for_update(skip_locked=True)
        gone = delete(RateWindowRow).where(RateWindowRow.key.in_(expired.cte("expired").select()))
        return len((await self._session.scalars(gone.returning(RateWindowRow.key))).all())

    async def _add(self, key: str, expiry: float, amount: int, *, at_most: int | None) -> int | None:
        """Count `amount` in one statement; the count then, or None where it would be more than `at_most`, which is at least `amount`."""
        insert = postgresql.insert if self._session.get_bind().dialect.name == "postgresql" else sqlite.insert
        first = insert(RateWindowRow).values(key=key, count=amount, expires_at=self._now + timedelta(seconds=expiry))
        begins = or_(RateWindowRow.expires_at <= self._now, RateWindowRow.count == 0)
        added = first.on_conflict_do_update(
            index_elements=[RateWindowRow.key],
            set_={
                "count": case((begins, first.excluded["count"]), else_=RateWindowRow.count + first.excluded["count"]),
                "expires_at": case((begins, first.excluded["expires_at"]), else_=RateWindowRow.expires_at),
            },
            where=None if at_most is None else or_(begins, RateWindowRow.count <= at_most - amount),
        )
        return await self._session.scalar(added.returning(RateWindowRow.count))


def _previous_ttl(at: float, expiry: int) -> float:
    """Seconds for which the previous window still weighs in."""
    return (1 - (at - expiry) / expiry % 1) * expiry
