# ruff: noqa: ASYNC109 - the signatures are httpcore's
from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpcore
import httpx
import pytest

from sdapi.address_guard import AddressRefused, GuardedBackend, GuardedTransport, SocketOption, guarded_client, is_public

PUBLIC = "93.184.216.34"
PUBLIC_TOO = "2606:4700:4700::1111"


class RecordingStream(httpcore.AsyncNetworkStream):
    """Notes the server name TLS would ask for, and goes no further."""

    def __init__(self) -> None:
        self.server_names: list[str | None] = []

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        self.server_names.append(server_hostname)
        raise httpcore.ConnectError("far enough")

    async def aclose(self) -> None:
        pass


class RecordingConnector(httpcore.AsyncNetworkBackend):
    """Connects nowhere, and notes where it was told to."""

    def __init__(self, *, unreachable: Iterable[str] = ()) -> None:
        self.unreachable = frozenset(unreachable)
        self.asked: list[tuple[str, int]] = []
        self.shares_s: list[float | None] = []
        self.stream = RecordingStream()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        self.shares_s.append(timeout)
        if host in self.unreachable:
            raise httpcore.ConnectError("no route")
        return self.stream


class FickleNames:
    """A name server with a new answer each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self._answers.pop(0)


class CountingServer:
    """Counts connections, and answers each with 200 and a cookie."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: who=you\r\n\r\nhi")
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[CountingServer]:
    server = CountingServer()
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


@asynccontextmanager
async def a_client(*, allow_private: bool) -> AsyncIterator[httpx.AsyncClient]:
    async with guarded_client(GuardedTransport(allow_private=allow_private), timeout_s=5, headers={}) as client:
        yield client


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", PUBLIC_TOO, "2001:4860:4860::8888", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "0.0.0.0",
        "0.1.2.3",
        "192.0.0.9",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:5db8:d822::1",
        "2001:0:5db8:d822::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
    ],
)
def test_an_address_of_anything_else_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "[::]",
        "①②⑦.⓪.⓪.①",
    ],
)
async def test_no_spelling_of_this_machine_is_connected(server: CountingServer, host: str) -> None:
    async with a_client(allow_private=False) as client:
        with pytest.raises((httpx.ConnectError, httpx.InvalidURL)):
            await client.get(f"http://{host}:{server.port}/")
    assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.0.0.1"])
async def test_what_is_refused_otherwise_is_reached_where_private_is_allowed(server: CountingServer, host: str) -> None:
    async with a_client(allow_private=True) as client:
        assert (await client.get(f"http://{host}:{server.port}/")).text == "hi"
    assert server.connections == 1


async def test_a_name_that_changes_its_mind_after_the_check_wins_nothing() -> None:
    names = FickleNames([PUBLIC], ["127.0.0.1"])
    connector = RecordingConnector()

    await GuardedBackend(allow_private=False, resolve=names, connector=connector).connect_tcp("rebind.example", 80, timeout=5)

    assert names.asked == 1
    assert connector.asked == [(PUBLIC, 80)]


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    connector = RecordingConnector()
    backend = GuardedBackend(allow_private=False, resolve=FickleNames([PUBLIC, "10.0.0.1"]), connector=connector)

    with pytest.raises(AddressRefused):
        await backend.connect_tcp("both.example", 80)
    assert connector.asked == []


async def test_a_dead_address_leaves_time_for_the_next() -> None:
    connector = RecordingConnector(unreachable=[PUBLIC_TOO])
    backend = GuardedBackend(allow_private=False, resolve=FickleNames([PUBLIC_TOO, PUBLIC]), connector=connector)

    await backend.connect_tcp("two.example", 80, timeout=8)

    assert connector.asked == [(PUBLIC_TOO, 80), (PUBLIC, 80)]
    first_s, second_s = connector.shares_s
    assert first_s is not None
    assert second_s is not None
    assert first_s <= 4
    assert 4 <= second_s <= 8


@pytest.mark.parametrize("answer", [[], [PUBLIC]])
async def test_a_name_that_leads_nowhere_is_a_connect_error(answer: list[str]) -> None:
    backend = GuardedBackend(allow_private=False, resolve=FickleNames(answer), connector=RecordingConnector(unreachable=[PUBLIC]))
    with pytest.raises(httpcore.ConnectError):
        await backend.connect_tcp("nowhere.example", 80, timeout=5)


async def test_a_name_server_that_never_answers_is_a_timeout() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(httpcore.ConnectTimeout):
        await GuardedBackend(allow_private=False, resolve=never).connect_tcp("slow.example", 80, timeout=0.05)


async def test_a_label_too_long_for_dns_is_a_connect_error() -> None:
    async with a_client(allow_private=False) as client:
        with pytest.raises((httpx.ConnectError, httpx.InvalidURL)):
            await client.get(f"http://{'a' * 70}.example/")


async def test_tls_verifies_the_name_although_the_address_is_connected() -> None:
    connector = RecordingConnector()
    transport = GuardedTransport(allow_private=False, resolve=FickleNames([PUBLIC]), connector=connector)
    async with guarded_client(transport, timeout_s=5, headers={}) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("https://pictures.example/a.png")
    assert connector.asked == [(PUBLIC, 443)]
    assert connector.stream.server_names == ["pictures.example"]


async def test_unix_sockets_are_refused() -> None:
    with pytest.raises(AddressRefused):
        await GuardedBackend(allow_private=True, resolve=FickleNames()).connect_unix_socket("/run/any.sock")


async def test_proxies_of_the_environment_are_not_used(server: CountingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with a_client(allow_private=True) as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).text == "hi"


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(server: CountingServer) -> None:
    async with a_client(allow_private=True) as client:
        for _ in range(2):
            await client.get(f"http://127.0.0.1:{server.port}/")
    assert server.connections == 2
    assert not any(b"cookie" in request.lower() for request in server.requests)
