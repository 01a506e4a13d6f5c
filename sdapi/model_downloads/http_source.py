"""HTTP as downloads need it: allowed hosts only, also after redirects; failures sorted into those worth another try and the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx
from pydantic import JsonValue

from sdapi.address_guard import AddressRefused, GuardedTransport, guarded_client

from .download import DownloadFailed
from .interrupt import Interrupt
from .sources import AllowedHosts

_MAX_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_MAX_JSON_BYTES = 16 * 2**20
_HEADERS = {
    "User-Agent": "sdapi (fetches models)",
    "Accept": "*/*",
    # Counted, hashed and resumed are the bytes of the file itself.
    "Accept-Encoding": "identity",
}


class Transient(Exception):
    """It did not work this time; the text is a sentence."""


class HttpSource:
    """GETs over the address guard. `timeout_s` bounds each network operation, so also how long a server may send nothing."""

    def __init__(self, transport: GuardedTransport, hosts: AllowedHosts, *, timeout_s: float) -> None:
        self._client = guarded_client(transport, timeout_s=timeout_s, headers=_HEADERS)
        self._hosts = hosts

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @asynccontextmanager
    async def open(self, url: str, interrupt: Interrupt, *, headers: Mapping[str, str] | None = None) -> AsyncIterator[httpx.Response]:
        """The answer at `url` or where it redirects to, its status one that a GET hopes for (200, 206) or 416, its body not yet read.

        Raises Transient, DownloadFailed and Interrupted, also from within the block when it reads by `chunks`.
        """
        target = httpx.URL(url)
        for _ in range(_MAX_REDIRECTS + 1):
            if (problem := self._hosts.problem(target)) is not None:
                raise DownloadFailed(f"The source {problem}.")
            with _sorted_failures():
                request = self._client.build_request("GET", target, headers=headers)
                response = await interrupt.unless_set(self._client.send(request, stream=True))
            try:
                if response.status_code not in _REDIRECTS:
                    _check_status(response)
                    yield response
                    return
                with _sorted_failures():
                    target = target.join(response.headers.get("location", ""))
            finally:
                await response.aclose()
        raise DownloadFailed("The source redirects without end.")

    async def json(self, url: str, interrupt: Interrupt) -> JsonValue:
        """A JSON document. Raises as `open` does."""
        body = bytearray()
        async with self.open(url, interrupt) as response:
            async for chunk in chunks(response, interrupt):
                body += chunk
                if len(body) > _MAX_JSON_BYTES:
                    raise DownloadFailed("The hub's answer is too long.")
        try:
            value: JsonValue = json.loads(body)
        except (ValueError, RecursionError) as malformed:
            raise DownloadFailed("The hub's answer is not JSON.") from malformed
        return value


async def chunks(response: httpx.Response, interrupt: Interrupt) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Transient where it breaks off or stalls, and Interrupted."""
    body = response.aiter_raw()

    async def following() -> bytes | None:
        return await anext(body, None)

    while True:
        with _sorted_failures():
            chunk = await interrupt.unless_set(following())
        if chunk is None:
            return
        yield chunk


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in _WORTH_ANOTHER_TRY:
        raise Transient(f"The source answers with status {status}.")
    if status in (401, 403):
        raise DownloadFailed(f"The source wants a login or does not allow the download (status {status}).")
    if status in (404, 410):
        raise DownloadFailed(f"The source has no such model or file (status {status}).")
    if status not in (200, 206, 416):
        raise DownloadFailed(f"The source answers with status {status}.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise DownloadFailed("The source sends the file compressed, which was not asked for.")


@contextmanager
def _sorted_failures() -> Iterator[None]:
    try:
        yield
    except AddressRefused as refusal:
        raise DownloadFailed("The source is not at a public address, so nothing is fetched from it.") from refusal
    except httpx.TimeoutException as failure:
        raise Transient("The source did not answer in time.") from failure
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as failure:
        raise DownloadFailed("The source leads to something that is not a URL.") from failure
    except httpx.ConnectError as failure:
        raise Transient("The source can't be reached.") from failure
    except (httpx.TransportError, httpx.StreamError) as failure:
        raise Transient("The connection to the source broke.") from failure
