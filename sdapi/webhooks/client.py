"""The HTTP client webhooks are sent with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import httpx

from sdapi.address_guard import GuardedTransport, Resolve, SystemResolver, guarded_client


@asynccontextmanager
async def open_webhook_client(
    *, allow_private: bool, max_parallel: int = 64, timeout_s: float = 30.0, resolve: Resolve | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that connects to public addresses only, `max_parallel` at once; closed on exit."""
    # As many look-ups as deliveries: a few names whose servers never answer must not be in the way of the others.
    system = SystemResolver(threads=max_parallel)
    transport = GuardedTransport(allow_private=allow_private, max_connections=max_parallel, resolve=resolve or system)
    try:
        async with guarded_client(transport, timeout_s=timeout_s, headers={"User-Agent": f"sdapi/{version('sdapi')}"}) as client:
            yield client
    finally:
        system.close()
