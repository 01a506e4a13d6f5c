"""Bytes as they arrive: in memory while they are few, in a file without a name once they are many."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import mmap
import tempfile
from pathlib import Path
from typing import BinaryIO

from sdapi.domain.sent_file import SentFile
from sdapi.storage import StorageError

_PIECE_BYTES = 2**18
"""Written at once: large enough that changing the thread costs little beside it."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Spool:
    """Collects bytes. The file never has a name in any folder, so whatever ends the process, nothing is left behind.

    `folder` is where the file lies, made when it is needed; None is the system's own. `in_memory_bytes` is what is kept without one.
    `hashed` makes the hash of what comes as it comes. To be closed, in whatever state.
    """

    def __init__(self, folder: Path | None, *, in_memory_bytes: int, hashed: bool = False) -> None:
        self._folder = folder
        self._in_memory_bytes = in_memory_bytes
        self._hash = hashlib.sha256() if hashed else None
        self._waiting = bytearray()
        self._file: BinaryIO | None = None
        self._closed = False
        self.size_bytes = 0

    def add(self, data: bytes) -> None:
        """Take these, into memory; `settle` is to follow before much more comes."""
        self._waiting += data
        self.size_bytes += len(data)

    async def settle(self) -> None:
        """Write out what is too much for memory. Raises StorageError."""
        if len(self._waiting) >= (self._in_memory_bytes if self._file is None else _PIECE_BYTES):
            await asyncio.to_thread(self._write_out)

    async def sent_file(self) -> SentFile:
        """All of it, as a value that is closed by whoever gets it; of a spool that is `hashed`. Raises StorageError."""
        assert self._hash is not None  # noqa: S101 - see above
        content: BinaryIO
        if self._file is not None:
            await asyncio.to_thread(self._write_out)
            content, self._file = self._file, None
        else:
            self._hash.update(self._waiting)  # of so little less than a millisecond
            content = io.BytesIO(self._waiting)
        self._waiting.clear()
        return SentFile(self._hash.hexdigest(), self.size_bytes, content)

    def contents(self) -> memoryview:
        """All of it, without a copy; for threads where it is long. Raises StorageError."""
        if self._file is None:
            return memoryview(self._waiting)
        self._write_out()
        # Unmapped with its last reader: one that fails over it would have it a little longer, and unmapping it under him is an error.
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Forget everything; may be done twice, and while a thread still writes for a caller that has gone."""
        self._closed = True
        self._waiting = bytearray()
        if self._file is not None:
            self._file.close()

    def _write_out(self) -> None:
        try:
            if self._file is None:
                if self._folder is not None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
            self._file.write(self._waiting)
            self._file.flush()
        except OSError as failure:
            full = failure.errno in _NO_ROOM
            raise StorageError("No room is left for what clients send." if full else "The body can't be kept.", disk_full=full) from failure
        finally:
            # Closed meanwhile, with the file not yet there: nobody else will do it.
            if self._closed and self._file is not None:
                self._file.close()
        if self._hash is not None:
            self._hash.update(self._waiting)
        self._waiting.clear()
