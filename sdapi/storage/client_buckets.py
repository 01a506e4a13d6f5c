"""Buckets that clients name: their servers are not trusted, and whether pictures can go there is tried out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from urllib.parse import urlsplit

import httpcore

from sdapi.address_guard import GuardedBackend, Resolve, SystemResolver, is_public
from sdapi.domain.errors import InvalidRequest, NotAvailable, PictureUnavailable, SdapiError

from .guarded_proxy import GuardedProxy
from .s3 import BucketError, BucketProblem, S3Storage
from .s3_target import WIRE_FIELDS, S3Target

_RESOLVE_TIMEOUT_S = 5.0

_FIELD_AT_FAULT = {
    BucketProblem.UNREACHABLE: "endpoint_url",
    BucketProblem.NO_BUCKET: "endpoint_url",
    BucketProblem.UNKNOWN_KEY: "access_key_id",
    BucketProblem.WRONG_SECRET: "secret_access_key",
    BucketProblem.DENIED: "access_key_id",
    BucketProblem.WRONG_REGION: "region_name",
}


class ClientBuckets:
    """Opens and checks buckets. Unless `allow_private`, every connection to them ends at a public address."""

    def __init__(
        self,
        *,
        allow_private: bool,
        link_lifetime: timedelta,
        resolve: Resolve | None = None,
        connector: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._allow_private = allow_private
        self._link_lifetime = link_lifetime
        self._resolver = SystemResolver(threads=2)
        self._resolve = resolve or self._resolver
        self._proxy = GuardedProxy(GuardedBackend(allow_private=allow_private, resolve=self._resolve, connector=connector))
        self._proxy_url: asyncio.Future[str] | None = None

    async def aclose(self) -> None:
        """End the connections to the buckets."""
        await self._proxy.aclose()
        self._resolver.close()

    async def open(self, target: S3Target, *, retries: int = 3) -> S3Storage:
        """Storage in the bucket; connects to nothing yet."""
        proxy_url = None
        if not self._allow_private:
            if self._proxy_url is None:
                self._proxy_url = asyncio.ensure_future(self._proxy.start())
            proxy_url = await asyncio.shield(self._proxy_url)
        return S3Storage(target, link_lifetime=self._link_lifetime, retries=retries, proxy_url=proxy_url)

    async def check(self, target: S3Target) -> None:
        """Prove that pictures can be written to the bucket, read and removed there; nothing is left behind.

        Raises InvalidRequest, which names the field at fault as `update_s3` spells it, or NotAvailable.
        """
        await self._check_addresses(target)
        storage = await self.open(target, retries=1)
        name = f"sdapi-check-{secrets.token_hex(12)}.txt"
        data = secrets.token_bytes(32)
        with _told_as("Writing a test file to"):
            await storage.save(name, data)
        try:
            with _told_as("Reading a test file from"):
                same = await storage.load(name) == data
        except SdapiError:
            with suppress(SdapiError):
                await storage.delete(name)
            raise
        with _told_as("Removing a test file from"):
            await storage.delete(name)
        if not same:
            raise NotAvailable("The bucket gave back something else than what was written to it.")

    async def _check_addresses(self, target: S3Target) -> None:
        if self._allow_private or not target.endpoint_url:
            return
        field, url = WIRE_FIELDS["endpoint_url"], urlsplit(target.endpoint_url)
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                addresses = await self._resolve(url.hostname or "", url.port or 443)
        except (OSError, UnicodeError) as unknown:  # a timeout is an OSError, too
            raise InvalidRequest.of(field, "The endpoint's name can't be resolved.") from unknown
        if not all(is_public(address) for address in addresses):
            raise InvalidRequest.of(field, "The endpoint is not at a public address.")


@contextmanager
def _told_as(step: str) -> Iterator[None]:
    """Name the step that failed and the field that is to blame."""
    try:
        yield
    except PictureUnavailable as missing:
        # Also what a bucket says that lets nobody read: see S3Storage.
        raise InvalidRequest.of(WIRE_FIELDS["access_key_id"], f"{step} the bucket failed: it is not there or may not be read.") from missing
    except BucketError as failure:
        sentence = f"{step} the bucket failed: it {failure.problem.value}."
        field = _FIELD_AT_FAULT.get(failure.problem)
        if field is None:
            raise NotAvailable(sentence) from failure
        raise InvalidRequest.of(WIRE_FIELDS[field], sentence) from failure
