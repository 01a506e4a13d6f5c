"""What every place for pictures has in common: names, media types, errors and the protocol."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from sdapi.domain.errors import SdapiError

_NAME = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,127}(?:/[a-z0-9_-][a-z0-9_.-]{0,127}){0,2}")

_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".base64": "text/plain; charset=us-ascii",
}


class StorageError(SdapiError):
    """A picture could not be written, read or removed. `disk_full` tells whether making room would help."""

    def __init__(self, sentence: str, *, disk_full: bool = False) -> None:
        self.disk_full = disk_full
        super().__init__(sentence)


def is_name(name: str) -> bool:
    """Whether `name` may name a picture: up to 3 segments of lower-case letters, digits, `-`, `_`, `.`, none starting with a dot."""
    return _NAME.fullmatch(name) is not None


def media_type(name: str) -> str:
    """Content type by the name's suffix."""
    return _MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")


def checked_name(name: str) -> str:
    """`name` itself. Raises ValueError where it is no name for a picture."""
    if not is_name(name):
        raise ValueError(f"not a name for a picture: {name!r}")
    return name


class Storage(Protocol):
    """Keeps pictures by name (`sd/0-<uuid>.png`); see is_name for what a name may be."""

    async def save(self, name: str, data: bytes) -> None:
        """Keep `data`, replacing what had the name; once this returns it survives a power cut.

        Raises StorageError, and ValueError for a bad name.
        """

    async def load(self, name: str) -> bytes:
        """The whole picture. Raises PictureUnavailable when there is none (a bad name included), StorageError when it can't be read."""

    async def exists(self, name: str) -> bool:
        """Whether a picture has the name; False for a bad name."""

    async def delete(self, name: str) -> None:
        """Remove the picture; fine if there is none. Raises StorageError, ValueError for a bad name."""

    async def path(self, name: str) -> Path | None:
        """The file to serve, or None when there is none (a bad name included) or pictures are not files here."""

    async def link(self, name: str) -> str | None:
        """Absolute URL where a client gets the picture directly, for a while at least; None when it is not there or is a file here.

        Raises StorageError.
        """

    async def public_base(self) -> str | None:
        """What makes `{base}/{name}` the lasting public URL of pictures saved now; None when links must go through this server.

        Raises StorageError.
        """

    async def free_bytes(self) -> int:
        """Room left for pictures; a huge number where nothing limits it."""
