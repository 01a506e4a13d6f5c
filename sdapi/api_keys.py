"""API keys: making, listing, revoking, recognising."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TypedDict, Unpack

from sqlalchemy import exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import ApiKeyRow, KeyRole
from sdapi.domain.limits import OwnLimits

_PREFIX_LENGTH = 8
_NO_OWN_LIMITS = OwnLimits()


@dataclass(frozen=True)
class ApiKey:
    """A key as it is known to the server: without the key itself."""

    id: int
    """0 is the key from the settings."""
    name: str
    role: KeyRole
    prefix: str
    """The first characters of the key."""
    created_at: datetime
    revoked_at: datetime | None
    limits: OwnLimits = _NO_OWN_LIMITS


class LimitChanges(TypedDict, total=False):
    """Limits to set: those that are named; see OwnLimits."""

    max_queued_jobs: int | None
    requests_per_minute: int | None
    daily_pictures: int | None


class ApiKeys:
    """The keys in the database, and the one from the settings (`extra_key`), which may do everything.

    A recognised key is remembered for `cache_s` seconds, so revoking one takes that long to reach other processes.
    """

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], extra_key: str | None, now: Callable[[], datetime], *, cache_s: float = 5.0
    ) -> None:
        self._sessions = sessions
        self._extra_key = None if not extra_key else _encoded(extra_key)
        self._now = now
        self._remember = timedelta(seconds=cache_s)
        # Holds valid keys only, by their hash: strangers' guesses can't fill it.
        self._recognised: dict[str, tuple[ApiKey, datetime]] = {}

    async def create(self, name: str, role: KeyRole, limits: OwnLimits = _NO_OWN_LIMITS) -> tuple[ApiKey, str]:
        """A new key, and the key itself in plain text, which is not kept and can't be shown again."""
        plain = "sd_" + secrets.token_urlsafe(32)
        row = ApiKeyRow(
            name=name,
            role=role,
            prefix=plain[:_PREFIX_LENGTH],
            key_hash=_hash(plain),
            created_at=self._now(),
            revoked_at=None,
            **asdict(limits),
        )
        async with self._sessions.begin() as session:
            session.add(row)
        return _api_key(row), plain

    async def list(self) -> tuple[ApiKey, ...]:
        """All keys in the database, revoked ones too, oldest first."""
        async with self._sessions() as session:
            return tuple(_api_key(row) for row in await session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id)))

    async def revoke(self, prefix_or_id: str | int) -> ApiKey | None:
        """Make a key invalid from now on; one that is already, stays as it is.

        None where no key has this id or prefix, or where more than one has the prefix: then the id is needed.
        """
        async with self._sessions.begin() as session:
            row = await _meant(session, prefix_or_id)
            if row is None:
                return None
            row.revoked_at = row.revoked_at or self._now()
            revoked = _api_key(row)
        self._recognised.clear()
        return revoked

    async def set_limits(self, prefix_or_id: str | int, **changes: Unpack[LimitChanges]) -> ApiKey | None:
        """Give a key limits of its own, or with None the default again; those not named stay.

        None where `revoke` would find no key either. Raises ValueError for a limit out of range.
        """
        OwnLimits(**changes)
        async with self._sessions.begin() as session:
            row = await _meant(session, prefix_or_id)
            if row is None:
                return None
            for name, limit in changes.items():
                setattr(row, name, limit)
            changed = _api_key(row)
        self._recognised.clear()
        return changed

    async def authenticate(self, plain: str) -> ApiKey | None:
        """The valid key that this is; None for an unknown or revoked one."""
        if self._extra_key is not None and hmac.compare_digest(self._extra_key, _encoded(plain)):
            return ApiKey(id=0, name="settings", role="enterprise", prefix="", created_at=datetime.fromtimestamp(0, UTC), revoked_at=None)
        key_hash = _hash(plain)
        now = self._now()
        known = self._recognised.get(key_hash)
        if known is not None and now < known[1]:
            return known[0]
        self._recognised.pop(key_hash, None)
        async with self._sessions() as session:
            row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.key_hash == key_hash, ApiKeyRow.revoked_at.is_(None)))
        if row is None:
            return None
        key = _api_key(row)
        self._recognised[key_hash] = (key, now + self._remember)
        return key

    async def any_exist(self) -> bool:
        """Whether any key at all is valid now."""
        if self._extra_key is not None:
            return True
        async with self._sessions() as session:
            return bool(await session.scalar(select(exists().where(ApiKeyRow.revoked_at.is_(None)))))


async def _meant(session: AsyncSession, prefix_or_id: str | int) -> ApiKeyRow | None:
    """The row of that id or prefix, locked; None where there is none, or more than one."""
    wanted = str(prefix_or_id)
    meant = ApiKeyRow.prefix == wanted
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= 10 and int(wanted) < 2**31:
        meant = or_(meant, ApiKeyRow.id == int(wanted))
    rows = (await session.scalars(select(ApiKeyRow).where(meant).with_for_update())).all()
    return rows[0] if len(rows) == 1 else None


def _encoded(plain: str) -> bytes:
    return plain.encode("utf-8", "surrogatepass")  # a JSON body can hold lone surrogates


def _hash(plain: str) -> str:
    return hashlib.sha256(_encoded(plain)).hexdigest()


def _api_key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        role=row.role,
        prefix=row.prefix,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        limits=OwnLimits(row.max_queued_jobs, row.requests_per_minute, row.daily_pictures),
    )
