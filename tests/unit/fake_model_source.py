"""A real HTTP server on 127.0.0.1 that serves models as the internet does: with ranges and redirects, cut short, lying, or as a hub."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """What is at one path, and how it is served."""

    body: bytes = b""
    etag: str = '"one"'
    ranges: bool = True
    status: str = "200 OK"
    redirect: str = ""
    declared_bytes: int | None = None
    """Sent as Content-Length instead of the truth."""
    is_chunked: bool = False
    """No Content-Length at all."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes of body each of the next answers sends before its connection breaks."""
    hold_after: int | None = None
    """Bytes of body after which the answer waits for `go_on`."""


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]


class ModelSource:
    """Serves `files`; remembers what it was asked and how many bytes of bodies it has sent."""

    def __init__(self) -> None:
        self.base = ""
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.sent_bytes: dict[str, int] = {}
        self.held = asyncio.Event()
        """Set once an answer waits."""
        self.go_on = asyncio.Event()

    def put(self, path: str, body: bytes, **how: object) -> str:
        """Serve `body`; its URL."""
        self.files[path] = Served(body=body, **how)  # type: ignore[arg-type]
        return self.base + path

    def publish(
        self,
        repository: str,
        files: Mapping[str, bytes],
        *,
        revision: str = "main",
        lfs: bool = True,
        card: Mapping[str, object] | None = None,
    ) -> None:
        """A repository of the hub: its list of files, and each behind a redirect to another path, as the real one does."""
        siblings = []
        for name, body in files.items():
            about: dict[str, object] = {"rfilename": name, "size": len(body)}
            if lfs and name.endswith(".safetensors"):
                about["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
            siblings.append(about)
            self.put(f"/cdn/{repository}/{name}", body, etag=f'"{hashlib.sha256(body).hexdigest()}"')
            self.files[f"/hub/{repository}/resolve/{COMMIT}/{name}"] = Served(redirect=f"/cdn/{repository}/{name}")
        listing = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": card}).encode()
        self.put(f"/hub/api/models/{repository}/revision/{revision}?blobs=true", listing)

    def paths_asked(self) -> list[str]:
        """In the order of asking."""
        return [asked.path for asked in self.asked]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, one connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = unquote(head[0].split()[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            self.asked.append(Asked(path, headers))
            await self._send(path, headers, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _send(self, path: str, headers: Mapping[str, str], writer: asyncio.StreamWriter) -> None:
        served = self.files.get(path, Served(status="404 Not Found"))
        if served.redirect:
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {served.redirect}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        whole, start, stop, status, extra = served.body, 0, len(served.body), served.status, ""
        asked_range = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        is_there = served.status.startswith("200")
        if asked_range and is_there and served.ranges and headers.get("if-range", served.etag) == served.etag:
            start, stop = int(asked_range[1]), min(int(asked_range[2] or len(whole)) + 1, len(whole))
            status = "206 Partial Content"
            extra = f"Content-Range: bytes {start}-{stop - 1}/{len(whole)}\r\n"
            if start >= len(whole):
                status, extra = "416 Range Not Satisfiable", f"Content-Range: bytes */{len(whole)}\r\n"
        body = whole[start:stop]
        length = len(body) if served.declared_bytes is None else served.declared_bytes
        size = "Transfer-Encoding: chunked\r\n" if served.is_chunked else f"Content-Length: {length}\r\n"
        etag = f"ETag: {served.etag}\r\n" if served.etag else ""
        writer.write(f"HTTP/1.1 {status}\r\n{etag}{extra}{size}\r\n".encode())
        end = served.cut_after.pop(0) if served.cut_after else len(body)
        hold = served.hold_after
        if hold is not None:
            await self._write(path, body[:hold], served, writer)
            self.held.set()
            await self.go_on.wait()
            await self._write(path, body[hold:end], served, writer)
        else:
            await self._write(path, body[:end], served, writer)
        if served.is_chunked and end == len(body):
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    async def _write(self, path: str, data: bytes, served: Served, writer: asyncio.StreamWriter) -> None:
        if data:
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if served.is_chunked else data)
            await writer.drain()
            self.sent_bytes[path] = self.sent_bytes.get(path, 0) + len(data)


@asynccontextmanager
async def model_source() -> AsyncIterator[ModelSource]:
    """A source, listening."""
    source = ModelSource()
    async with await asyncio.start_server(source.answer, "127.0.0.1", 0) as listening:
        source.base = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield source
        source.go_on.set()
