"""Somebody webhooks are sent to: a real HTTP server on a loopback port that remembers every call and answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Call:
    """One request as it came in; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def delivery(self) -> str:
        return self.headers["x-sdapi-delivery"]

    @property
    def attempt(self) -> int:
        return int(self.headers["x-sdapi-attempt"])


@dataclass
class Receiver:
    """`answer` gives the status for a call; None holds the call until `release`."""

    answer: Callable[[Call], int | None]
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    held: int = 0
    most_held: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, host: str = "127.0.0.1", path: str = "/hook") -> str:
        return f"http://{host}:{self.port}{path}"

    def calls_to(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            call = Call(head.split()[1], headers, await reader.readexactly(int(headers["content-length"])))
            self.calls.append(call)
            status = self.answer(call)
            if status is None:
                status = await self._hold()
            location = "Location: /moved\r\n" if 300 <= status < 400 else ""
            writer.write(f"HTTP/1.1 {status} Whatever\r\n{location}Content-Length: 2\r\n\r\nok".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _hold(self) -> int:
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        await self.release.wait()
        self.held -= 1
        return 200


@asynccontextmanager
async def receiving(answer: Callable[[Call], int | None] = lambda _: 200) -> AsyncIterator[Receiver]:
    """A receiver that listens on a free port."""
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.close()
        await server.wait_closed()
