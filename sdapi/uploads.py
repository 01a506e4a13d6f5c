"""Pictures that clients put here: decoded, made anew, kept for the retention time."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from PIL import Image
from sqlalchemy import ColumnElement, delete, exists, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import JobRow, UploadRow
from sdapi.domain.errors import ImageRefused
from sdapi.domain.picture_formats import DEFAULT_FORMAT, SUFFIXES, PictureFormat
from sdapi.domain.sent_file import SentFile
from sdapi.picture_encoding import encode_picture
from sdapi.remote_images import RemoteImages
from sdapi.storage import Storage

_BATCH: Final = 200
_ENCODED_AT_ONCE: Final = 2
"""As many as are decoded at once: what is decoded sooner only lies in memory."""
_ID_TRIES: Final = 8
_QUALITY: Final = 95
"""Of JPEG files: they are drawn from, too."""
_MAX_ID: Final = 2**31 - 1
"""Clients keep ids in 32 signed bits."""


@dataclass(frozen=True)
class Upload:
    """A picture that is kept."""

    id: int
    """Of no job, either: clients delete both by the same field."""
    name: str
    """In storage."""


class Uploads:
    """Takes pictures as files, base64 or `data:` URLs. What is served later was encoded here, so no byte of a client's reaches another."""

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        storage: Storage,
        images: RemoteImages,
        keep: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._storage = storage
        self._images = images
        self._keep = keep
        self._now = now
        self._encoding = asyncio.Semaphore(_ENCODED_AT_ONCE)

    async def add(
        self,
        field: str,
        source: str | SentFile,
        *,
        client_id: int,
        picture_format: PictureFormat = DEFAULT_FORMAT,
        square: bool = False,
        max_bytes: int | None = None,
    ) -> Upload:
        """Keep the picture; `square` cuts the middle out of it. Raises ImageRefused about `field`."""
        if isinstance(source, str) and source.strip()[:8].lower().startswith(("http://", "https://")):
            raise ImageRefused(field, f"The {field} must be base64, a data: URL or a file.")
        if max_bytes is not None and _size_bytes(source) > max_bytes:
            raise ImageRefused(field, f"The {field} is larger than {max_bytes / 2**20:g} MB.")
        async with self._encoding:
            picture = await self._images.load(field, source, public_url="")  # matters for links only
            data = await asyncio.to_thread(_encoded, picture, picture_format, square=square)
            del picture
        # Looks like any other picture's name, which is what makes it unguessable.
        name = f"generations/{uuid.uuid4()}.{SUFFIXES[picture_format]}"
        await self._storage.save(name, data)
        try:
            return Upload(await self._record(name, client_id), name)
        except BaseException:
            await self._storage.delete(name)
            raise

    async def link(self, upload: Upload, *, public_url: str) -> str:
        """Where everybody can see it: directly where the storage has a public address, else on this server."""
        return f"{await self._storage.public_base() or f'{public_url}/images'}/{upload.name}"

    async def remove(self, upload_id: int, *, client_id: int) -> bool:
        """Remove the client's picture of that id; False where it has none."""
        return await self._remove(UploadRow.id == upload_id, client_id)

    async def remove_named(self, name: str, *, client_id: int) -> bool:
        """Remove the client's picture of that name in storage; False where it has none."""
        return await self._remove(UploadRow.name == name, client_id)

    async def clean_up(self) -> int:
        """Remove what has expired; how many pictures that were."""
        removed = 0
        while True:
            async with self._sessions() as session:
                due = select(UploadRow.id, UploadRow.name).where(UploadRow.expires_at <= self._now()).limit(_BATCH)
                expired = {row.id: row.name for row in await session.execute(due)}
            for name in expired.values():
                await self._storage.delete(name)
            async with self._sessions.begin() as session:
                await session.execute(delete(UploadRow).where(UploadRow.id.in_(expired)))
            removed += len(expired)
            if len(expired) < _BATCH:
                return removed

    async def _record(self, name: str, client_id: int) -> int:
        now = self._now()
        values = {"client_id": client_id, "name": name, "created_at": now, "expires_at": now + self._keep}
        for tries_left in range(_ID_TRIES - 1, -1, -1):
            upload_id = secrets.randbelow(_MAX_ID) + 1
            try:
                async with self._sessions.begin() as session:
                    if await session.scalar(select(exists().where(JobRow.id == upload_id))):
                        continue
                    await session.execute(insert(UploadRow).values(id=upload_id, **values))
            except IntegrityError:  # the id is taken
                if not tries_left:
                    raise
            else:
                return upload_id
        raise AssertionError("every one of eight random ids belongs to a job")

    async def _remove(self, which: ColumnElement[bool], client_id: int) -> bool:
        """The file first: a row that is left over by a failure leads the next try to it."""
        own = (which, UploadRow.client_id == client_id)
        async with self._sessions() as session:
            name = await session.scalar(select(UploadRow.name).where(*own))
        if name is None:
            return False
        await self._storage.delete(name)
        async with self._sessions.begin() as session:
            await session.execute(delete(UploadRow).where(*own))
        return True


def _size_bytes(source: str | SentFile) -> int:
    if isinstance(source, SentFile):
        return source.size_bytes
    inline = source.strip()
    # 4 characters of base64 are 3 bytes.
    return len((inline.partition(",")[2] or inline).rstrip("=")) * 3 // 4


def _encoded(picture: Image.Image, picture_format: PictureFormat, *, square: bool) -> bytes:
    if square:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return encode_picture(picture, picture_format, quality=_QUALITY)
