"""What routes ask for, as annotated aliases: services, the body, the client behind the key, the base of links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader

from sdapi.api_keys import ApiKey
from sdapi.dialects.base import Dialect, Rendered
from sdapi.domain.errors import InvalidRequest, NotAllowed, NotAuthorised
from sdapi.storage import Storage as StorageSeam

from .bodies import read_body
from .limits import HttpLimits
from .multipart import close_files
from .provided import Jobs as JobsSeam
from .provided import Services

_MAX_IDEMPOTENCY_KEY_CHARS = 200

KEY_HEADER = APIKeyHeader(name="X-API-KEY", auto_error=False, description="`sdapi keys create` makes one")
"""For the API's own documentation page only; the key is found by `client_id`."""


async def services(request: Request) -> Services:
    """What the lifespan has opened."""
    return cast("Services", request.app.state.services)


OpenServices = Annotated[Services, Depends(services)]


async def limits(opened: OpenServices) -> HttpLimits:
    """The edge's settings."""
    return opened.limits


async def jobs(opened: OpenServices) -> JobsSeam:
    """The queue."""
    return opened.jobs


async def storage(opened: OpenServices) -> StorageSeam:
    """The stored pictures."""
    return opened.storage


Limits = Annotated[HttpLimits, Depends(limits)]
Jobs = Annotated[JobsSeam, Depends(jobs)]
Storage = Annotated[StorageSeam, Depends(storage)]


async def files_closed(request: Request) -> AsyncIterator[None]:
    """Closes the files that came with the request once it is over, whatever came of it."""
    try:
        yield
    finally:
        close_files(getattr(request.state, "wire_body", {}))


FilesClosed = Annotated[None, Depends(files_closed)]


async def body(request: Request, limits: Limits, files_closed: FilesClosed) -> dict[str, object]:  # noqa: ARG001 - see there
    """The fields of the body, read at most once per request. Raises InvalidRequest."""
    return await _body(request, limits)


async def _body(request: Request, limits: HttpLimits) -> dict[str, object]:
    """For those in whose dependencies `FilesClosed` is."""
    if not hasattr(request.state, "wire_body"):
        request.state.wire_body = await read_body(
            request, max_body_bytes=limits.max_body_bytes, max_file_bytes=limits.max_file_bytes, folder=limits.incoming_dir
        )
    return cast("dict[str, object]", request.state.wire_body)


async def client_if_any(request: Request, opened: OpenServices, files_closed: FilesClosed) -> ApiKey | None:  # noqa: ARG001 - see there
    """The key that came with the request, None when none came. Raises NotAuthorised for a wrong one.

    The body is only read when no header has a key, so a stranger's large body costs nothing.
    """
    plain = _key_in_headers(request) or _key_in_body(await _body(request, opened.limits))
    if plain is None:
        return None
    client = await opened.api_keys.authenticate(plain)
    if client is None:
        raise NotAuthorised
    return client


async def client(found: Annotated[ApiKey | None, Depends(client_if_any)]) -> ApiKey:
    """The key that came with the request. Raises NotAuthorised."""
    if found is None:
        raise NotAuthorised
    return found


async def enterprise_client(found: Annotated[ApiKey, Depends(client)]) -> ApiKey:
    """The enterprise key that came with the request. Raises NotAuthorised, NotAllowed."""
    if found.role != "enterprise":
        raise NotAllowed
    return found


async def client_id(found: Annotated[ApiKey, Depends(client)]) -> int:
    """The id of the key that came with the request. Raises NotAuthorised."""
    return found.id


async def idempotency_key(
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="A repeated key joins the first request's job")] = None,
) -> str | None:
    """The Idempotency-Key header. Raises InvalidRequest."""
    key = (key or "").strip()
    if len(key) > _MAX_IDEMPOTENCY_KEY_CHARS:
        raise InvalidRequest.of("Idempotency-Key", f"The Idempotency-Key must not be longer than {_MAX_IDEMPOTENCY_KEY_CHARS} characters.")
    return key or None


async def public_url(request: Request, limits: Limits) -> str:
    """Base of the links in answers, without a trailing slash."""
    return (limits.public_url or str(request.base_url)).rstrip("/")


Body = Annotated[dict[str, object], Depends(body)]
Client = Annotated[ApiKey, Depends(client)]
ClientIfAny = Annotated[ApiKey | None, Depends(client_if_any)]
EnterpriseClient = Annotated[ApiKey, Depends(enterprise_client)]
ClientId = Annotated[int, Depends(client_id)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
PublicUrl = Annotated[str, Depends(public_url)]


def answer(rendered: Rendered, dialect: Dialect | None = None, limits: HttpLimits | None = None) -> JSONResponse:
    """The dialect's answer as HTTP; 200 whatever it means where the hosted service did so and the operator hasn't chosen otherwise."""
    always_200 = dialect is not None and dialect.ERRORS_ARE_200 and limits is not None and not limits.standard_error_status
    return JSONResponse(rendered.body, status_code=200 if always_200 else rendered.status, headers=dict(rendered.headers))


def _key_in_headers(request: Request) -> str | None:
    # The documented curl sample has a space after its key.
    if key := request.headers.get("x-api-key", "").strip():
        return key
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _key_in_body(fields: dict[str, object]) -> str | None:
    key = fields.get("key")
    return key.strip() or None if isinstance(key, str) else None
