"""One storage out of several: new pictures go to the one that is set, pictures are found wherever they went."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sdapi.domain.errors import PictureUnavailable

from .base import Storage, StorageError, checked_name, is_name
from .local import LocalStorage
from .s3 import S3Storage
from .s3_target import S3Target
from .targets import StorageTargets

_log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class SwitchingStorage:
    """Storage that saves to the bucket of `update_s3` if there is one, else to the `configured` one, else to `local`.

    Pictures saved before a switch stay readable. The folder is asked before the buckets, because that costs nothing; no name is used
    for two pictures.
    """

    def __init__(self, *, local: LocalStorage, configured: S3Storage | None, targets: StorageTargets) -> None:
        self._local = local
        self._configured = configured
        self._targets = targets
        self._opened: dict[S3Target, S3Storage] = {}

    async def open(self) -> None:
        """Prepare the folder. Raises StorageError."""
        await self._local.open()

    async def save(self, name: str, data: bytes) -> None:
        """See Storage."""
        await (await self._home()).save(checked_name(name), data)

    async def load(self, name: str) -> bytes:
        """See Storage."""
        try:
            return await self._local.load(name)
        except PictureUnavailable:
            found = await self._first(name, _loaded)
        if found is None:
            raise PictureUnavailable
        return found

    async def exists(self, name: str) -> bool:
        """See Storage."""
        return await self._local.exists(name) or await self._first(name, _true_if_there) is not None

    async def delete(self, name: str) -> None:
        """See Storage. A bucket of before that does not answer is left alone."""
        await self._local.delete(name)
        buckets, former = await self._buckets()
        failure: StorageError | None = None
        for bucket in (*buckets, *former):
            try:
                await bucket.delete(name)
            except StorageError as failed:
                if bucket in former:
                    _log.warning("a picture stays in a bucket of before", extra={"picture": name, "reason": str(failed)})
                else:
                    failure = failed
        if failure is not None:
            raise failure

    async def path(self, name: str) -> Path | None:
        """See Storage: the file of a picture that was saved here."""
        return await self._local.path(name)

    async def link(self, name: str) -> str | None:
        """See Storage."""
        return None if await self._local.exists(name) else await self._first(name, S3Storage.link)

    async def public_base(self) -> str | None:
        """See Storage."""
        return await (await self._home()).public_base()

    async def free_bytes(self) -> int:
        """See Storage."""
        return await (await self._home()).free_bytes()

    async def _home(self) -> Storage:
        """Where new pictures go."""
        known = await self._targets.known()
        if known.problem is not None:
            raise StorageError(known.problem)  # not elsewhere: whoever set a bucket looks for the pictures there
        if known.current is not None:
            return await self._open(known.current)
        return self._configured or self._local

    async def _buckets(self) -> tuple[list[S3Storage], list[S3Storage]]:
        """The buckets of now, and those of before."""
        known = await self._targets.known()
        now = [] if known.current is None else [await self._open(known.current)]
        if self._configured is not None:
            now.append(self._configured)
        former = [await self._open(target) for target in known.former]
        kept = {known.current, *known.former}
        self._opened = {target: bucket for target, bucket in self._opened.items() if target in kept}
        return now, former

    async def _open(self, target: S3Target) -> S3Storage:
        bucket = self._opened.get(target)
        if bucket is None:
            bucket = self._opened[target] = await self._targets.open(target)
        return bucket

    async def _first(self, name: str, ask: Callable[[S3Storage, str], Awaitable[_Found | None]]) -> _Found | None:
        """The first bucket's answer that isn't None. Raises StorageError when none has one and a bucket of now could not be asked."""
        if not is_name(name):
            return None
        buckets, former = await self._buckets()
        failure: StorageError | None = None
        for bucket in (*buckets, *former):
            try:
                found = await ask(bucket, name)
            except StorageError as failed:
                if bucket in former:
                    _log.warning("a bucket of before can't be asked", extra={"reason": str(failed)})
                else:
                    failure = failed
                continue
            if found is not None:
                return found
        if failure is not None:
            raise failure
        return None


async def _loaded(bucket: S3Storage, name: str) -> bytes | None:
    try:
        return await bucket.load(name)
    except PictureUnavailable:
        return None


async def _true_if_there(bucket: S3Storage, name: str) -> bool | None:
    return await bucket.exists(name) or None
