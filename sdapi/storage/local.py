"""Pictures in a folder: files that appear whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sdapi.domain.errors import PictureUnavailable

from .base import StorageError, checked_name, is_name

_TEMPORARY_PREFIX = ".saving-"
_LEFTOVER_AFTER_S = 3600.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LocalStorage:
    """Storage in a folder of this machine. Several processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    async def open(self) -> None:
        """Create the folder and remove what earlier processes were writing when they died. Raises StorageError."""
        await asyncio.to_thread(self._open)

    async def save(self, name: str, data: bytes) -> None:
        """See Storage."""
        await asyncio.to_thread(self._save, checked_name(name), data)

    async def load(self, name: str) -> bytes:
        """See Storage."""
        return await asyncio.to_thread(self._load, name)

    async def exists(self, name: str) -> bool:
        """See Storage."""
        return await self.path(name) is not None

    async def delete(self, name: str) -> None:
        """See Storage."""
        await asyncio.to_thread(self._delete, checked_name(name))

    async def path(self, name: str) -> Path | None:
        """See Storage."""
        return await asyncio.to_thread(self._find, name)

    async def link(self, name: str) -> str | None:  # noqa: ARG002
        """See Storage: the server hands out its files itself."""
        return None

    async def public_base(self) -> str | None:
        """See Storage."""
        return None

    async def free_bytes(self) -> int:
        """See Storage. Raises StorageError."""
        try:
            return (await asyncio.to_thread(shutil.disk_usage, self._root)).free
        except OSError as failure:
            raise StorageError("The folder for pictures is not there.") from failure

    def _open(self) -> None:
        try:
            self._make_folder(self._root)
            for leftover in self._leftovers():
                leftover.unlink(missing_ok=True)
        except OSError as failure:
            raise StorageError("The folder for pictures can't be used.") from failure

    def _leftovers(self) -> Iterator[Path]:
        # Only old ones: another process that shares the folder may be writing now.
        before = time.time() - _LEFTOVER_AFTER_S
        for folder, _, files in os.walk(self._root):
            for file in files:
                path = Path(folder, file)
                if file.startswith(_TEMPORARY_PREFIX) and path.lstat().st_mtime < before:
                    yield path

    def _save(self, name: str, data: bytes) -> None:
        path = self._root / name
        temporary = path.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        try:
            self._make_folder(path.parent)
            if not path.parent.resolve().is_relative_to(self._root):
                raise StorageError("The picture's folder lies outside the folder for pictures.")
            try:
                _write_durably(temporary, data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as failure:
            full = failure.errno in _NO_ROOM
            raise StorageError("No room is left for pictures." if full else "The picture could not be saved.", disk_full=full) from failure

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            if folder.is_dir():  # another thread was faster
                return
            raise
        folder.chmod(0o755)  # whatever the umask: a web server may serve these files under another user
        _sync_folder(folder.parent)

    def _load(self, name: str) -> bytes:
        path = self._find(name)
        if path is None:
            raise PictureUnavailable
        try:
            return path.read_bytes()
        except FileNotFoundError as gone:
            raise PictureUnavailable from gone
        except OSError as failure:
            raise StorageError("The picture could not be read.") from failure

    def _delete(self, name: str) -> None:
        path = self._root / name
        try:
            # Of a link the link itself goes; what must lie inside is its folder.
            if path.parent.resolve().is_relative_to(self._root):
                path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as failure:
            raise StorageError("The picture could not be removed.") from failure

    def _find(self, name: str) -> Path | None:
        if not is_name(name):
            return None
        try:
            path = (self._root / name).resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            return None
        return path if path.is_file() and path.is_relative_to(self._root) else None


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        path.chmod(0o644)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # The row that promises the picture is committed next; without this a power cut could keep the row and lose the name.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
