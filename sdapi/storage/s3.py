"""Pictures in a bucket of S3, or of a service that speaks its protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from sdapi.domain.errors import PictureUnavailable

from .base import StorageError, checked_name, is_name, media_type
from .s3_target import S3Target

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

_CACHE_CONTROL = "public, max-age=604800, immutable"
_CONNECT_TIMEOUT = timedelta(seconds=5)
_REQUEST_TIMEOUT = timedelta(seconds=60)
_RETRY_FOR = timedelta(seconds=20)
_NO_LIMIT = 2**63 - 1
_CODE = re.compile(r"<Code>\s*(\w{1,64})\s*</Code>")
# These services take requests only at https://bucket.host.
_BUCKET_IN_HOST = (".aliyuncs.com", ".myqcloud.com")


class BucketProblem(Enum):
    """Why a bucket did not do what it was asked, as far as it tells."""

    UNREACHABLE = "could not be reached"
    NO_BUCKET = "does not exist"
    UNKNOWN_KEY = "does not know the access key"
    WRONG_SECRET = "does not accept the secret access key"  # noqa: S105
    DENIED = "does not allow it"
    WRONG_REGION = "is in another region"
    OTHER = "answered with an error"


_PROBLEM_OF_CODE = {
    "NoSuchBucket": BucketProblem.NO_BUCKET,
    "InvalidBucketName": BucketProblem.NO_BUCKET,
    "InvalidAccessKeyId": BucketProblem.UNKNOWN_KEY,
    "InvalidClientTokenId": BucketProblem.UNKNOWN_KEY,
    "SignatureDoesNotMatch": BucketProblem.WRONG_SECRET,
    "AccessDenied": BucketProblem.DENIED,
    "AllAccessDisabled": BucketProblem.DENIED,
    "AuthorizationHeaderMalformed": BucketProblem.WRONG_REGION,
    "IllegalLocationConstraintException": BucketProblem.WRONG_REGION,
    "PermanentRedirect": BucketProblem.WRONG_REGION,
}


class BucketError(StorageError):
    """A bucket did not do what it was asked; `problem` tells why."""

    def __init__(self, problem: BucketProblem) -> None:
        self.problem = problem
        super().__init__(f"The bucket for pictures {problem.value}.")


class S3Storage:
    """Storage in one bucket. Any number of machines may share it; opening it connects to nothing.

    `link_lifetime` is how long links to pictures work where the bucket has no public URL. A request that fails is repeated at most
    `retries` times. `proxy_url` is an HTTP proxy that every connection goes through.
    """

    def __init__(self, target: S3Target, *, link_lifetime: timedelta, retries: int = 3, proxy_url: str | None = None) -> None:
        self.target = target
        self._link_lifetime = link_lifetime
        self._store = _open(target, retries, proxy_url)

    async def save(self, name: str, data: bytes) -> None:
        """See Storage."""
        checked_name(name)
        attributes = {"Content-Type": media_type(name), "Cache-Control": _CACHE_CONTROL}
        with _mapped():
            # In one request: a bucket never shows a part, and an upload in parts that dies would stay there and be paid for.
            await obstore.put_async(self._store, name, data, attributes=attributes, use_multipart=False)

    async def load(self, name: str) -> bytes:
        """See Storage."""
        if not is_name(name):
            raise PictureUnavailable
        try:
            with _mapped():
                found = await obstore.get_async(self._store, name)
                return bytes(await found.bytes_async())
        except BucketError as failure:
            if failure.problem is BucketProblem.DENIED:
                raise PictureUnavailable from failure  # see exists
            raise

    async def exists(self, name: str) -> bool:
        """See Storage."""
        if not is_name(name):
            return False
        try:
            with _mapped():
                await obstore.head_async(self._store, name)
        except PictureUnavailable:
            return False
        except BucketError as failure:
            # Who may read but not list gets 403 instead of 404 for what is not there, as Amazon documents for GetObject.
            if failure.problem is BucketProblem.DENIED:
                return False
            raise
        return True

    async def delete(self, name: str) -> None:
        """See Storage."""
        checked_name(name)
        try:
            with _mapped():
                await obstore.delete_async(self._store, name)
        except PictureUnavailable:
            return

    async def path(self, name: str) -> Path | None:  # noqa: ARG002
        """See Storage: there are no files."""
        return None

    async def link(self, name: str) -> str | None:
        """See Storage. The public URL, else one that carries a signature and works for the link's lifetime."""
        if not await self.exists(name):
            return None
        base = await self.public_base()
        if base is not None:
            return f"{base}/{name}"
        with _mapped():
            return await obstore.sign_async(self._store, "GET", name, self._link_lifetime)

    async def public_base(self) -> str | None:
        """See Storage."""
        return self.target.public_base

    async def free_bytes(self) -> int:
        """See Storage: a bucket has no end."""
        return _NO_LIMIT


def _open(target: S3Target, retries: int, proxy_url: str | None) -> S3Store:
    config: S3Config = {"region": target.region_name}
    endpoint = target.endpoint_url
    if endpoint:
        in_host = (urlsplit(endpoint).hostname or "").endswith(_BUCKET_IN_HOST)
        config["virtual_hosted_style_request"] = in_host
        # Under this name, because it wins over every variable of the environment.
        config["aws_endpoint_url_s3"] = endpoint.replace("://", f"://{target.bucket}.", 1) if in_host else endpoint
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": _CONNECT_TIMEOUT,
        "timeout": _REQUEST_TIMEOUT,
    }
    if proxy_url is not None:
        client["proxy_url"] = proxy_url
    retry: RetryConfig = {
        "max_retries": retries,
        "retry_timeout": _RETRY_FOR,
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2},
    }
    credential: S3Credential = {
        "access_key_id": target.access_key_id,
        "secret_access_key": target.secret_access_key,
        "token": None,
        "expires_at": None,
    }
    return S3Store(
        target.bucket,
        prefix=target.directory or None,
        config=config,
        client_options=client,
        retry_config=retry,
        # Not in `config`: a session token in the environment would be sent along and spoil the signature.
        credential_provider=(lambda: credential) if target.access_key_id else None,
    )


@contextmanager
def _mapped() -> Iterator[None]:
    """The client's errors as ours. Raises PictureUnavailable for an object that is not there, else BucketError."""
    try:
        yield
    except (BaseError, OSError, ValueError) as failure:
        problem = _problem(failure)
        if problem is None:
            raise PictureUnavailable from failure
        raise BucketError(problem) from failure


def _problem(failure: Exception) -> BucketProblem | None:
    """What `failure` means; None: the object is not there."""
    told = str(failure).partition("\n\nDebug source:")[0]
    if code := _CODE.search(told):
        known = _PROBLEM_OF_CODE.get(code[1])
        if known is not None:
            return known
    if isinstance(failure, FileNotFoundError):
        return None
    if isinstance(failure, PermissionDeniedError | UnauthenticatedError):
        return BucketProblem.DENIED
    if "HTTP error:" in told:
        return BucketProblem.UNREACHABLE
    if "redirect" in told.lower():
        return BucketProblem.WRONG_REGION
    return BucketProblem.OTHER
