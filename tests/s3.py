"""Fixtures: a real S3 server on loopback, with buckets of its own for each test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from uuid import uuid4
from xml.etree import ElementTree

import httpx
import pytest

from sdapi.storage import S3Target

_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass(frozen=True)
class S3Server:
    """It believes every key, unless `checks_keys` is used."""

    url: str

    def new_bucket(self) -> S3Target:
        """The way into an empty bucket that no other test has."""
        bucket = f"pictures-{uuid4().hex[:12]}"
        httpx.put(f"{self.url}/{bucket}", headers={"x-amz-acl": "public-read"}).raise_for_status()
        return S3Target(bucket=bucket, endpoint_url=self.url, access_key_id="the-key", secret_access_key="the-secret")

    def keys_in(self, target: S3Target) -> list[str]:
        """What the bucket holds."""
        listing = ElementTree.fromstring(httpx.get(f"{self.url}/{target.bucket}?list-type=2").text)
        return [str(key.text) for key in listing.iter(f"{_XML}Key")]

    def public_url(self, target: S3Target) -> S3Target:
        """The same bucket, where everybody can read it."""
        return replace(target, public_url=f"{self.url}/{target.bucket}")


class OneAnswer:
    """A server that has the same answer to everything."""

    def __init__(self, status: HTTPStatus, body: str = "", headers: str = "") -> None:
        self._answer = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n{body}"
        self.requests: list[str] = []
        self.url = ""

    async def __aenter__(self) -> OneAnswer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head.splitlines()[0])
        is_head = head.startswith("HEAD")
        writer.write((self._answer.partition("\r\n\r\n")[0] + "\r\n\r\n" if is_head else self._answer).encode())
        await writer.drain()
        writer.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Started when the first test needs it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would log every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


@pytest.fixture
def s3_checks_keys(s3_server: S3Server, bucket: S3Target) -> Iterator[None]:
    """The server knows no key at all while the test runs."""
    httpx.post(f"{s3_server.url}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield
    httpx.post(f"{s3_server.url}/moto-api/reset-auth", content=b"inf").raise_for_status()


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Target:
    """An empty bucket."""
    return s3_server.new_bucket()
