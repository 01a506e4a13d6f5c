"""A file that a client sent as a part of its form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass(frozen=True)
class SentFile:
    """What came in it. Its name and its type as the client told them count for nothing.

    It belongs to the request it came with and is closed at its end, so nothing that lasts longer may hold it.
    """

    sha256: str
    """Of the content, as hexadecimal digits: equal files are equal values."""
    size_bytes: int
    content: BinaryIO = field(repr=False, compare=False)
    """Can be read again and again, by one thread at a time."""
