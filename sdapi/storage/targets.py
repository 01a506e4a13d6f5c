"""The bucket that `update_s3` has set, shared by all processes through the database."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import StorageTargetRow
from sdapi.domain.errors import NotAvailable
from sdapi.server_secret import SealBroken, Sealer

from .base import StorageError
from .client_buckets import ClientBuckets
from .s3 import S3Storage
from .s3_target import S3Target

_log = logging.getLogger(__name__)

_CURRENT_ID = 1
_MAX_FORMER = 4
"""Buckets of before that are still looked in; each makes it slower to find that a picture is nowhere."""
_TRIES = 20
"""Every try that fails means that somebody else succeeded, so this many may set one at the same moment."""


@dataclass(frozen=True)
class KnownTargets:
    """What the table says."""

    current: S3Target | None = None
    former: tuple[S3Target, ...] = ()
    """Set before, the latest first; pictures may still be there."""
    problem: str | None = None
    """A sentence: why the current one can't be used although there is one."""


class StorageTargets:
    """Keeps the bucket of `update_s3` (row 1), and for `keep_former` those before it (rows above), so that their pictures stay readable.

    Credentials are sealed in the table. What it says is remembered for `look_every_s`, so a change takes that long to reach other
    processes.
    """

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        sealer: Sealer,
        buckets: ClientBuckets,
        keep_former: timedelta,
        now: Callable[[], datetime],
        look_every_s: float = 3.0,
    ) -> None:
        self._sessions = sessions
        self._sealer = sealer
        self._buckets = buckets
        self._keep_former = keep_former
        self._now = now
        self._look_every = timedelta(seconds=look_every_s)
        self._known: KnownTargets | None = None
        self._look_at: datetime | None = None

    async def get(self) -> S3Target | None:
        """The bucket that is set, or None. Raises NotAvailable when it can't be used any more."""
        known = await self._look()
        if known.problem is not None:
            raise NotAvailable(known.problem)
        return known.current

    async def check(self, target: S3Target) -> None:
        """See ClientBuckets."""
        await self._buckets.check(target)

    async def set(self, target: S3Target) -> None:
        """New pictures go to `target` from now on. It is not checked here: see `check`."""
        await self._replace(target)

    async def reset(self) -> bool:
        """New pictures go where they went without `update_s3`; False when no bucket was set."""
        return await self._replace(None)

    async def known(self) -> KnownTargets:
        """What the table said not long ago. Raises StorageError when the database has not told even once."""
        if self._known is not None and self._look_at is not None and self._now() < self._look_at:
            return self._known
        # One caller looks; the others go on with what is known.
        self._look_at = self._now() + self._look_every
        try:
            return await self._look()
        except (OSError, SQLAlchemyError) as away:
            if self._known is None:
                raise StorageError("The database does not tell where pictures go.") from away
            _log.warning("the database does not tell where pictures go, so they go where they went", exc_info=away)
            return self._known

    async def open(self, target: S3Target) -> S3Storage:
        """Storage in one of the known buckets."""
        return await self._buckets.open(target)

    async def _look(self) -> KnownTargets:
        async with self._sessions() as session:
            rows = (await session.scalars(select(StorageTargetRow).order_by(StorageTargetRow.id))).all()
        kept_since = self._now() - self._keep_former
        current, problem = None, None
        former: list[S3Target] = []
        for row in rows:
            try:
                target = self._unsealed(row)
            except SealBroken:
                if row.id == _CURRENT_ID:
                    problem = "The bucket that update_s3 has set can't be used, because the server's secret key has changed: set it again."
                continue
            if row.id == _CURRENT_ID:
                current = target
            elif row.updated_at > kept_since:
                former.insert(0, target)
        if problem is not None and (self._known is None or self._known.problem is None):
            _log.error(problem)
        self._known = KnownTargets(current, tuple(former[:_MAX_FORMER]), problem)
        self._look_at = self._now() + self._look_every
        return self._known

    def _unsealed(self, row: StorageTargetRow) -> S3Target:
        access_key_id, secret_access_key = json.loads(self._sealer.unseal(row.encrypted_credentials))
        return S3Target(
            bucket=row.bucket,
            directory=row.directory,
            endpoint_url=row.endpoint_url,
            region_name=row.region_name,
            public_url=row.public_url,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
        )

    def _sealed(self, target: S3Target) -> StorageTargetRow:
        return StorageTargetRow(
            id=_CURRENT_ID,
            bucket=target.bucket,
            directory=target.directory,
            endpoint_url=target.endpoint_url,
            region_name=target.region_name,
            public_url=target.public_url,
            encrypted_credentials=self._sealer.seal(json.dumps([target.access_key_id, target.secret_access_key])),
            updated_at=self._now(),
        )

    async def _replace(self, new: S3Target | None) -> bool:
        """Put `new` in the current one's place and the current one among the former; whether there was one."""
        tried = 1
        while True:
            try:
                async with self._sessions.begin() as session:
                    replaced = await self._step_down(session, new)
                    if new is not None:
                        session.add(self._sealed(new))
                break
            except IntegrityError:
                # Another process set one where there was none to lock; now there is.
                if tried == _TRIES:
                    raise
                tried += 1
        await self._look()
        return replaced

    async def _step_down(self, session: AsyncSession, new: S3Target | None) -> bool:
        """Make the current one a former one, unless `new` is the same place; whether there was one. Removes what nobody needs any more."""
        rows = StorageTargetRow
        current = await session.scalar(select(rows.id).where(rows.id == _CURRENT_ID).with_for_update())
        await session.execute(delete(rows).where(rows.id != _CURRENT_ID, rows.updated_at <= self._now() - self._keep_former))
        if new is not None:
            place = (rows.endpoint_url == new.endpoint_url, rows.bucket == new.bucket, rows.directory == new.directory)
            await session.execute(delete(rows).where(*place))
        latest = await session.scalar(select(func.max(rows.id)))
        await session.execute(update(rows).where(rows.id == _CURRENT_ID).values(id=(latest or 0) + _CURRENT_ID, updated_at=self._now()))
        return current is not None
