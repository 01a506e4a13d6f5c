"""GET /images/{name}: stored pictures, and promised ones as soon as they are drawn."""

from __future__ import annotations

import asyncio
import math
from email.utils import parsedate_to_datetime
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from sdapi.domain.errors import PictureUnavailable
from sdapi.storage import Storage as StorageSeam
from sdapi.storage import is_name, media_type

from .dependencies import Jobs, Limits, Storage
from .limits import HttpLimits
from .provided import Jobs as JobsSeam

_HEADERS = {"Cache-Control": "public, max-age=604800, immutable", "X-Content-Type-Options": "nosniff"}
_SENT_WITH_304 = ("cache-control", "etag", "last-modified", "x-content-type-options")


def router() -> APIRouter:
    """The pictures need no key: their names can't be guessed."""
    routes = APIRouter(tags=["Pictures"])

    @routes.get("/images/{name:path}", response_class=FileResponse)
    @routes.head("/images/{name:path}", include_in_schema=False)
    async def image(name: str, request: Request, storage: Storage, jobs: Jobs, limits: Limits) -> Response:
        """A picture. While its request is still in work the call is held for a while, then answered 404 with Retry-After."""
        if not is_name(name):  # needs to trouble neither the disk nor the database
            raise PictureUnavailable
        place = await _place(name, storage)
        if place is None:
            place = await _once_drawn(name, storage, jobs, limits, may_wait=request.method == "GET")
        if isinstance(place, str):
            # Not to be kept: the link may be a signed one that ends, and the bucket another one tomorrow.
            return RedirectResponse(place, 302, headers={"Cache-Control": "no-store"})
        return await _file(request, place)

    return routes


async def _place(name: str, storage: StorageSeam) -> Path | str | None:
    """The picture's file, or the URL it is to be had from."""
    return await storage.path(name) or await storage.link(name)


async def _once_drawn(name: str, storage: StorageSeam, jobs: JobsSeam, limits: HttpLimits, *, may_wait: bool) -> Path | str:
    job = await jobs.promised(name)
    if job is None:
        raise PictureUnavailable
    if may_wait and not job.status.is_final:
        job = await jobs.wait(job, timeout_s=limits.sync_wait_s)
    place = await _place(name, storage)
    if place is None:
        raise PictureUnavailable(retry_after_s=0 if job.status.is_final else max(1, math.ceil(await jobs.eta_s(job))))
    return place


async def _file(request: Request, path: Path) -> Response:
    try:
        stat = await asyncio.to_thread(path.stat)
    except FileNotFoundError as error:  # retention was quicker
        raise PictureUnavailable from error
    response = FileResponse(path, headers=_HEADERS, media_type=media_type(path.name), stat_result=stat)
    if _is_unchanged(request, etag=response.headers["etag"], modified_at=int(stat.st_mtime)):
        kept = {name: response.headers[name] for name in _SENT_WITH_304}
        return Response(status_code=304, headers=kept)
    return response


def _is_unchanged(request: Request, *, etag: str, modified_at: int) -> bool:
    """Whether the client has it already; If-None-Match counts before If-Modified-Since, as RFC 9110 says."""
    known = request.headers.get("if-none-match")
    if known is not None:
        tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        return etag in tags or "*" in tags
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return modified_at <= parsedate_to_datetime(since).timestamp()
    except (ValueError, OverflowError):
        return False
