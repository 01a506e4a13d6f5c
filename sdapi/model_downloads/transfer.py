"""One file from a source into its part file: resumed where it broke off, bounded in size, hashed as it comes."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from sdapi.catalog.weights import Refused, header_bytes

from .download import DownloadFailed, Progress
from .http_source import HttpSource, Transient, chunks
from .interrupt import Interrupt
from .staging import PartFile, Staging

_FLUSH_BYTES = 4 * 2**20
_HEADER_START_BYTES = 8
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_KEPT_FREE_BYTES = 256 * 2**20
"""Not taken from the disk, which holds the database and pictures as well, maybe."""
_GAINED_BYTES = 2**20
"""A try that brought at least this much was worth it: the waits begin at the shortest again."""
_MAX_TRIES = 200
_SLOW_AFTER_S = 60.0
_SLOW_BYTES = 64 * 2**10
"""Less than this within `_SLOW_AFTER_S` counts as a stall: a server that drips would hold up all other downloads for months."""


@dataclass(frozen=True)
class WantedFile:
    """One file of a model."""

    path: str
    """As it will be called, below the model's folder."""
    url: str
    size_bytes: int | None
    """As the source's list says; None: not known."""
    sha256: str
    """Expected, in hex; empty: not known."""


@dataclass(frozen=True)
class TransferLimits:
    """What a download may take. `retry_delays_s`: how long to wait after each failure in a row; after the last one it is given up."""

    max_bytes: int
    retry_delays_s: tuple[float, ...]
    free_bytes: Callable[[Path], int]


@dataclass(frozen=True)
class Run:
    """One download being worked at."""

    staging: Staging
    progress: Progress
    interrupt: Interrupt


class Transfer:
    """Fetches files one at a time."""

    def __init__(self, http: HttpSource, limits: TransferLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._limits = limits
        self._clock = clock

    async def fetch(self, wanted: WantedFile, run: Run) -> tuple[int, str]:
        """Have the file whole in the staging folder; its size and SHA-256.

        `run.progress` counts the files before it already. Raises DownloadFailed and Interrupted; a part that is worth it stays.
        """
        whole = await asyncio.to_thread(run.staging.whole, wanted.path)
        if whole is not None:
            run.progress.done_bytes += whole[0]
            return whole
        before_bytes = run.progress.done_bytes
        part = run.staging.part(wanted.path)
        try:
            await asyncio.to_thread(part.open)
            await self._fetch_persistently(wanted, part, run, before_bytes)
            if wanted.sha256 and part.sha256 != wanted.sha256:
                raise DownloadFailed(f"{wanted.path} has the SHA-256 {part.sha256}, but {wanted.sha256} was expected.")
            await asyncio.to_thread(part.close, durable=True)
            await asyncio.to_thread(run.staging.complete, wanted.path, part.sha256)
        except OSError as failure:
            raise disk_failure(failure) from failure
        finally:
            await asyncio.to_thread(part.close)
        return part.size_bytes, part.sha256

    async def _fetch_persistently(self, wanted: WantedFile, part: PartFile, run: Run, before_bytes: int) -> None:
        failures = 0
        delays = self._limits.retry_delays_s
        for _ in range(_MAX_TRIES):
            had_bytes = part.size_bytes
            try:
                await self._fetch_rest(wanted, part, run, before_bytes)
            except Transient as failure:
                sentence = str(failure)
            else:
                return
            if part.size_bytes - had_bytes >= _GAINED_BYTES:
                failures = 0
            if failures == len(delays):
                break
            await run.interrupt.unless_set(asyncio.sleep(delays[failures]))
            failures += 1
        raise DownloadFailed(
            f"{sentence} It was tried again {failures} times; another request continues where this one ended.", resumable=True
        )

    async def _fetch_rest(self, wanted: WantedFile, part: PartFile, run: Run, before_bytes: int) -> None:
        validator, noted_bytes = await asyncio.to_thread(run.staging.validator, wanted.path)
        if part.size_bytes and part.size_bytes == (wanted.size_bytes if wanted.size_bytes is not None else noted_bytes):
            run.progress.done_bytes = before_bytes + part.size_bytes
            return
        headers = {}
        # Without a validator only a hash can tell whether the rest belongs to the beginning.
        if part.size_bytes and (validator or wanted.sha256):
            headers["Range"] = f"bytes={part.size_bytes}-"
            if validator:
                headers["If-Range"] = validator
        async with self._http.open(wanted.url, run.interrupt, headers=headers) as response:
            total_bytes = await self._begin(response, wanted, part, run, validator if headers else None)
            run.progress.done_bytes = before_bytes + part.size_bytes
            if run.progress.total_bytes is None and total_bytes is not None:
                run.progress.total_bytes = before_bytes + total_bytes
            self._check_room(run, part, before_bytes, total_bytes)
            await self._read(response, wanted, part, run, before_bytes)
        if total_bytes is not None and part.size_bytes != total_bytes:
            if part.size_bytes > total_bytes:
                await asyncio.to_thread(part.clear)
            raise Transient("The connection to the source broke.")

    async def _begin(self, response: httpx.Response, wanted: WantedFile, part: PartFile, run: Run, validator: str | None) -> int | None:
        """Have the part end where the body begins; the size of the whole file, where the source tells.

        `validator` is that of the beginning, "" where it has none; None: nothing was to be resumed.
        """
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            await asyncio.to_thread(part.clear)
            raise Transient("The source has no such part of the file.")
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if validator is None or found is None or int(found[1]) != part.size_bytes:
                await asyncio.to_thread(part.clear)
                raise Transient("The source sends another part of the file than it was asked for.")
            if validator and _validator(response) not in ("", validator):
                await asyncio.to_thread(part.clear)
                raise Transient("The file at the source has changed meanwhile.")
            total_bytes = None if found[3] == "*" else int(found[3])
        else:
            declared = response.headers.get("content-length", "")
            total_bytes = int(declared) if re.fullmatch(r"\d{1,18}", declared) else None
            if part.size_bytes:
                await asyncio.to_thread(part.clear)
            await asyncio.to_thread(run.staging.note, wanted.path, validator=_validator(response), total_bytes=total_bytes)
        if wanted.size_bytes is not None and total_bytes is not None and wanted.size_bytes != total_bytes:
            raise DownloadFailed(f"{wanted.path} is listed with {wanted.size_bytes:,} bytes, but the source sends {total_bytes:,}.")
        return wanted.size_bytes if total_bytes is None else total_bytes

    def _check_room(self, run: Run, part: PartFile, before_bytes: int, total_bytes: int | None) -> None:
        whole_bytes = part.size_bytes if total_bytes is None else total_bytes
        if before_bytes + whole_bytes > self._limits.max_bytes:
            raise too_large(before_bytes + whole_bytes, self._limits.max_bytes)
        check_disk(self._limits.free_bytes(run.staging.folder), whole_bytes - part.size_bytes)

    async def _read(self, response: httpx.Response, wanted: WantedFile, part: PartFile, run: Run, before_bytes: int) -> None:
        """The body, to its end or as far as it comes: what has been received is written in any case."""
        buffer = bytearray()
        checked = part.size_bytes > 0 or not wanted.path.endswith(".safetensors")
        window_ends_s, window_bytes = self._clock() + _SLOW_AFTER_S, 0
        try:
            async for chunk in chunks(response, run.interrupt):
                buffer += chunk
                run.progress.done_bytes = before_bytes + part.size_bytes + len(buffer)
                if run.progress.done_bytes > self._limits.max_bytes:
                    raise too_large(None, self._limits.max_bytes)
                if not checked and len(buffer) >= _HEADER_START_BYTES:
                    _check_start(wanted.path, bytes(buffer[:_HEADER_START_BYTES]))
                    checked = True
                if len(buffer) >= _FLUSH_BYTES:
                    check_disk(self._limits.free_bytes(run.staging.folder), len(buffer))
                    await asyncio.to_thread(part.write, bytes(buffer))
                    buffer.clear()
                window_bytes += len(chunk)
                if self._clock() >= window_ends_s:
                    if window_bytes < _SLOW_BYTES:
                        raise Transient("The source sends next to nothing.")
                    window_ends_s, window_bytes = self._clock() + _SLOW_AFTER_S, 0
        finally:
            if buffer:
                await asyncio.to_thread(part.write, bytes(buffer))


def _check_start(path: str, start: bytes) -> None:
    """A pickle or a login page is refused at its first bytes, not after gigabytes."""
    try:
        header_bytes(path, start)
    except Refused as refusal:
        raise DownloadFailed(f"What has come can't be used: {refusal}") from refusal


def _validator(response: httpx.Response) -> str:
    """What If-Range may carry: a strong ETag, otherwise the date of the last change; empty where there is neither."""
    etag = str(response.headers.get("etag", ""))
    if etag.startswith('"') and etag.endswith('"') and len(etag) < 300:
        return etag
    return str(response.headers.get("last-modified", ""))[:100]


def too_large(total_bytes: int | None, max_bytes: int) -> DownloadFailed:
    """The failure of a model that is larger than allowed."""
    size = "is" if total_bytes is None else f"has {total_bytes:,} bytes, which is"
    return DownloadFailed(f"The model {size} more than the {max_bytes:,} bytes a download may have.")


def check_disk(free_bytes: int, missing_bytes: int) -> None:
    """Raises DownloadFailed where so many free bytes are no room for so many more."""
    if missing_bytes + _KEPT_FREE_BYTES > free_bytes:
        raise DownloadFailed(
            f"The disk of the models folder has {free_bytes:,} bytes free, but {missing_bytes:,} are missing and "
            f"{_KEPT_FREE_BYTES:,} are kept free."
        )


def disk_failure(failure: OSError) -> DownloadFailed:
    """The failure of a download whose files could not be written."""
    if failure.errno in _DISK_FULL:
        return DownloadFailed("The disk of the models folder is full.")
    return DownloadFailed(f"The models folder can't be written to: {failure.strerror}.")
