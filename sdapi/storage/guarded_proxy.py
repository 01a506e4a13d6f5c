"""A way out for the bucket client of buckets that clients name: every connection it makes, redirects too, goes to a public address."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

import httpcore

from sdapi.address_guard import AddressRefused

_HEAD_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 2**16
_ENDS = (
    OSError,
    EOFError,
    ValueError,
    asyncio.LimitOverrunError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    AddressRefused,
)
"""How a connection can end, other than well."""


class GuardedProxy:
    """An HTTP proxy on a loopback port, for this process. `backend` decides where it may connect to.

    The bucket client looks names up and follows redirects by itself, so checking a URL beforehand is not enough.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        """Listen; returns the proxy's URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK_BYTES)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        """Listen no more and end every connection."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        # Whatever happens, the bucket client sees its connection end, and calls that "unreachable".
        with suppress(*_ENDS):
            await self._tunnel(reader, writer)
        self._clients.discard(writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode("latin-1").split(" ", 2)
        is_tunnel = method == "CONNECT"
        url = urlsplit(f"//{target}" if is_tunnel else target)
        if not url.hostname:
            return
        server = await self._backend.connect_tcp(url.hostname, url.port or (443 if is_tunnel else 80), timeout=_CONNECT_TIMEOUT_S)
        try:
            if is_tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                await server.write(head)  # a server understands the whole URL in it as well
            await asyncio.gather(_upwards(reader, server), _downwards(server, writer))
        finally:
            await server.aclose()


async def _upwards(reader: asyncio.StreamReader, server: httpcore.AsyncNetworkStream) -> None:
    with suppress(*_ENDS):
        while data := await reader.read(_CHUNK_BYTES):
            await server.write(data)
    await server.aclose()  # either side's end is the end of both: this ends the other pump's read


async def _downwards(server: httpcore.AsyncNetworkStream, writer: asyncio.StreamWriter) -> None:
    with suppress(*_ENDS):
        while data := await server.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
