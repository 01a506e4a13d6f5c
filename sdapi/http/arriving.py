"""A request's body while it arrives: counted, and read on where it is refused, so that the client gets to read why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Self

from fastapi import Request

from sdapi.domain.errors import InvalidRequest

_DRAINED_TIMES = 4
"""Of a body that is refused, up to so many times the limit is read and thrown away: a client whose sending is cut off never
reads our answer."""
_DRAIN_S = 10.0


class ArrivingBody:
    """The pieces of a body, in order, to be iterated over once. Raises InvalidRequest about "body" with the piece that is too much."""

    def __init__(self, request: Request, *, max_bytes: int) -> None:
        self._chunks = request.stream()
        self._max_bytes = max_bytes
        self._is_hopeless = declared_bytes(request.headers) > max_bytes * _DRAINED_TIMES
        self.size_bytes = 0
        """What has come so far."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._is_hopeless:
            raise self._too_large()
        chunk = await anext(self._chunks)
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            raise self._too_large()
        return chunk

    async def drain(self) -> None:
        """Read what is still to come and throw it away, within reason: not for long, and not what is far too much anyway."""
        most = self._max_bytes * _DRAINED_TIMES
        if self._is_hopeless:
            return
        try:
            async with asyncio.timeout(_DRAIN_S):
                async for chunk in self._chunks:
                    self.size_bytes += len(chunk)
                    if self.size_bytes > most:
                        return
        except TimeoutError:
            return

    def _too_large(self) -> InvalidRequest:
        return InvalidRequest.of("body", f"The body must not be larger than {readable(self._max_bytes)}.")


def declared_bytes(headers: Mapping[str, str]) -> int:
    """What Content-Length says; 0 where it says nothing that can be."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) < 20 else 0


def readable(count_bytes: int) -> str:
    """A limit as clients are told it."""
    return f"{count_bytes / 2**20:g} MB" if count_bytes >= 2**20 else f"{count_bytes} bytes"
