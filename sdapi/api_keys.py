"""API keys: making, listing, revoking, recognising."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import ApiKeyRow, KeyRole

_PREFIX_LENGTH = 8


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

    async def create(self, name: str, role: KeyRole) -> tuple[ApiKey, str]:
        """A new key, and the key itself in plain text, which is not kept and can't be shown again."""
        plain = "sd_" + secrets.token_urlsafe(32)
        row = ApiKeyRow(name=name, role=role, prefix=plain[:_PREFIX_LENGTH], key_hash=_hash(plain), created_at=self._now(), revoked_at=None)
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
        wanted = str(prefix_or_id)
        meant = ApiKeyRow.prefix == wanted
        if wanted.isascii() and wanted.isdigit() and int(wanted) < 2**31:
            meant = or_(meant, ApiKeyRow.id == int(wanted))
        async with self._sessions.begin() as session:
            rows = (await session.scalars(select(ApiKeyRow).where(meant))).all()
            if len(rows) != 1:
                return None
            unrevoked = update(ApiKeyRow).where(ApiKeyRow.id == rows[0].id, ApiKeyRow.revoked_at.is_(None))
            await session.execute(unrevoked.values(revoked_at=self._now()))
            await session.refresh(rows[0])
            revoked = _api_key(rows[0])
        self._recognised.clear()
        return revoked

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


def _encoded(plain: str) -> bytes:
    return plain.encode("utf-8", "surrogatepass")  # a JSON body can hold lone surrogates


def _hash(plain: str) -> str:
    return hashlib.sha256(_encoded(plain)).hexdigest()


def _api_key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(id=row.id, name=row.name, role=row.role, prefix=row.prefix, created_at=row.created_at, revoked_at=row.revoked_at)
