"""HTTP that can't be talked into reaching this machine or its neighbours: the address connected to is checked, not the name."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpcore
import httpx

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) to numeric addresses, best first. Raises OSError or UnicodeError for a name that leads nowhere."""

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

# What `is_global` calls public although nobody we may talk to lives there (protocol assignments, 6to4 relays, 6to4, documentation).
_NEVER_V4 = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_NEVER_V6 = (IPv6Network("2001::/23"), IPv6Network("2002::/16"), IPv6Network("3fff::/20"))
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRefused(httpx.ConnectError):
    """The host's name leads to an address that is not public; nothing was connected."""


def is_public(address: str) -> bool:
    """Whether a numeric address belongs to the public internet.

    False for loopback, private, link-local, shared (100.64/10), multicast, reserved and unspecified addresses, and for IPv6 forms that
    carry such an IPv4 address. An address behind the well-known NAT64 prefix is judged by the IPv4 address it carries, because in an
    IPv6-only network every IPv4 host looks like that. Raises ValueError for what is not a numeric address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return _is_public_v4(parsed)
    if parsed.ipv4_mapped is not None:
        return _is_public_v4(parsed.ipv4_mapped)
    if parsed in _NAT64:
        return _is_public_v4(IPv4Address(parsed.packed[-4:]))
    return _is_public_v6(parsed)


def _is_public_v4(address: IPv4Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in network for network in _NEVER_V4)
    return address.is_global and not special


def _is_public_v6(address: IPv6Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in network for network in _NEVER_V6)
    return address in _GLOBAL_UNICAST and address.is_global and not special


class SystemResolver:
    """The system's own name look-up, on threads of its own.

    A name server that never answers holds a thread for many seconds; on asyncio's shared threads it would also hold up file work.
    """

    def __init__(self, threads: int = 8) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> list[str]:
        """See Resolve."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Take no more names; returns at once."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to exactly the addresses it has checked, so that a name that changes its mind between check and use wins nothing.

    A host is refused as soon as one of its addresses is not public. TLS still verifies the host's name. For asyncio only.
    """

    def __init__(self, *, allow_private: bool, resolve: Resolve, connector: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._connector = connector or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See AsyncNetworkBackend. Raises AddressRefused besides httpcore's own errors."""
        if not 0 < port < 2**16:
            # URLs may carry any number; deeper down it would be an OverflowError that nobody expects.
            raise httpcore.ConnectError("there is no such port")
        deadline = None if timeout is None else time.monotonic() + timeout
        addresses = await self._checked_addresses(host, port, timeout)
        failure: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectError("the name has no address")
        for tried, address in enumerate(addresses):
            # An equal share of what time is left: one dead address (IPv6 without a route, say) leaves room for the next.
            share = None if deadline is None else max(deadline - time.monotonic(), 0.0) / (len(addresses) - tried)
            try:
                return await self._connector.connect_tcp(
                    address, port, timeout=share, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as unreachable:
                failure = unreachable
        raise failure

    async def _checked_addresses(self, host: str, port: int, timeout_s: float | None) -> list[str]:
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._resolve(host, port)
        except TimeoutError as late:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from late
        except (OSError, UnicodeError) as unknown:
            raise httpcore.ConnectError("the name can't be resolved") from unknown
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise AddressRefused("the host is not at a public address")
        return addresses

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refused: nothing out there lives in a file of ours. Raises AddressRefused."""
        raise AddressRefused("unix sockets are not public addresses")

    async def sleep(self, seconds: float) -> None:
        """See AsyncNetworkBackend."""
        await asyncio.sleep(seconds)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over a GuardedBackend. Uses no proxy and no environment; keeps no connection open between requests."""

    def __init__(
        self,
        *,
        allow_private: bool,
        max_connections: int = 32,
        resolve: Resolve | None = None,
        connector: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        ssl_context = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=ssl_context, trust_env=False)
        self._resolver = SystemResolver()
        # httpx has no parameter for the backend; the pool it would use is replaced before it has opened anything.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=0,
            network_backend=GuardedBackend(allow_private=allow_private, resolve=resolve or self._resolver, connector=connector),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await super().aclose()
        self._resolver.close()


def guarded_client(transport: GuardedTransport, *, timeout_s: float, headers: dict[str, str]) -> httpx.AsyncClient:
    """A client that goes nowhere but through `transport`: no proxies, no redirects followed, no cookies kept from one user to the next.

    `timeout_s` bounds each network operation, not the whole exchange.
    """
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        transport=transport, trust_env=False, follow_redirects=False, timeout=timeout_s, headers=headers, cookies=no_cookies
    )
