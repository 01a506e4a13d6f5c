"""Takes downloads in, and works at them one after another: claim -> fetch -> install -> record."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.address_guard import GuardedTransport
from sdapi.catalog.inventory import MODEL_KINDS, ModelKind
from sdapi.domain.errors import InvalidRequest

from .download import Download, DownloadFailed, NewDownload, Progress
from .fetching import Fetched, Fetcher
from .http_source import HttpSource
from .interrupt import Interrupt, Interrupted
from .names import check_id
from .peeking import kind_of_source
from .removal import remove_model
from .repository import DownloadRepository
from .sources import AllowedHosts, parse_source
from .staging import remove_unused
from .transfer import TransferLimits

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_RETRY_DELAYS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_CLEAN_UP_EVERY = timedelta(hours=6)

OnEnd = Callable[[AsyncSession, Download], None]
"""Called in the transaction that records the end of a download, to add what must be true together with it."""


@dataclass(frozen=True)
class DownloadSources:
    """What may be asked, and for how much. `hosts` may have `*.example.org`; the hub's own host is always among them."""

    hub_url: str
    hosts: tuple[str, ...]
    max_bytes: int
    allow_private: bool = False
    """Whether http and private addresses may be asked too."""
    timeout_s: float = 30.0
    """How long a source may take to connect, or send nothing."""
    retry_delays_s: tuple[float, ...] = _RETRY_DELAYS_S


@dataclass(frozen=True)
class DownloadTimes:
    """How the work is kept healthy. Progress is written with each heartbeat."""

    heartbeat_s: float
    stale_after_s: float
    max_attempts: int
    poll_s: float = 1.0


@dataclass
class _Current:
    download: Download
    progress: Progress
    interrupt: Interrupt


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


class ModelDownloads:
    """One per process, which works at one download at a time. Its loops are asked to stop, never cancelled.

    Several processes may share the database and the models folder: each download is worked at by one of them, and taken over with
    what has come so far when that one dies.
    """

    def __init__(
        self,
        *,
        sessions: async_sessionmaker[AsyncSession],
        models_dir: Path,
        sources: DownloadSources,
        times: DownloadTimes,
        now: Callable[[], datetime],
        on_end: OnEnd | None = None,
        free_bytes: Callable[[Path], int] = _free_bytes,
        transport: GuardedTransport | None = None,
    ) -> None:
        """A `transport` that is handed in decides itself about private addresses, and is closed with this."""
        self._sessions = sessions
        self._models_dir = models_dir
        self._times = times
        self._now = now
        self._on_end = on_end
        self._hub_url = sources.hub_url.rstrip("/")
        self._hosts = AllowedHosts(sources.hosts, hub_url=sources.hub_url, allow_http=sources.allow_private)
        transport = transport or GuardedTransport(allow_private=sources.allow_private)
        self._http = HttpSource(transport, self._hosts, timeout_s=sources.timeout_s)
        limits = TransferLimits(sources.max_bytes, sources.retry_delays_s, free_bytes)
        self._fetcher = Fetcher(models_dir, self._http, hub_url=self._hub_url, hosts=self._hosts, limits=limits)
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._current: _Current | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._cleaned_up_at: datetime | None = None

    # -- what is asked ------------------------------------------------------------------------------------------------------------

    async def start(self, new: NewDownload, *, client_id: int, webhook_url: str | None = None) -> Download:
        """Queue the download and return at once; where the same is under way already, that one.

        Raises InvalidRequest with the fields `model_id`, `url` and `sha256`.
        """
        new = replace(new, url=new.url.strip(), revision=new.revision.strip(), sha256=new.sha256.strip().lower())
        if new.sha256 and not _SHA256.fullmatch(new.sha256):
            raise InvalidRequest.of("sha256", "The sha256 must be 64 hexadecimal digits.")
        parse_source(new, hub_url=self._hub_url, hosts=self._hosts)
        await asyncio.to_thread(check_id, new, self._models_dir)
        async with self._sessions.begin() as session:
            download, is_new = await DownloadRepository(session).add(new, client_id=client_id, webhook_url=webhook_url, now=self._now())
        if not is_new and download.new.url != new.url:
            raise InvalidRequest.of("model_id", f"A {new.kind} with the id {new.model_id!r} is just being fetched from another url.")
        self._wake.set()
        return download

    async def kind_of(self, url: str, revision: str = "") -> ModelKind:
        """The kind of the model at a source, from its list of files or its header. Raises InvalidRequest (`url`) and DownloadFailed."""
        asked = NewDownload("checkpoint", "", url.strip(), revision.strip())
        return await kind_of_source(self._http, self._hub_url, parse_source(asked, hub_url=self._hub_url, hosts=self._hosts))

    async def get(self, download_id: int) -> Download | None:
        """The download of this id."""
        async with self._sessions() as session:
            return await DownloadRepository(session).get(download_id)

    async def list(self, limit: int) -> tuple[Download, ...]:
        """The latest downloads, newest first."""
        async with self._sessions() as session:
            return tuple(await DownloadRepository(session).newest(limit))

    async def running(self) -> tuple[Download, ...]:
        """Those queued and under way, oldest first."""
        async with self._sessions() as session:
            return tuple(await DownloadRepository(session).unfinished())

    async def delete_model(self, model_id: str, kinds: Collection[ModelKind] = MODEL_KINDS) -> tuple[ModelKind, ...]:
        """Remove the models of these kinds and this id from the models folder; of which kinds there were some.

        Raises ModelNotFound, InvalidRequest and NotAvailable.
        """
        for download in await self.running():
            if download.model_id == model_id and download.kind in kinds:
                raise InvalidRequest.of("model_id", f"The {download.kind} {model_id!r} is just being fetched; wait until that has ended.")
        return await asyncio.to_thread(remove_model, self._models_dir, model_id, kinds)

    async def give_up(self, download_id: int, sentence: str) -> Download | None:
        """End a download nobody is at as failed; what has come stays for another try. None where it is being worked at, or has ended."""
        async with self._sessions.begin() as session:
            given_up = await DownloadRepository(session).withdraw(download_id, sentence, now=self._now())
            if given_up is not None and self._on_end is not None:
                self._on_end(session, given_up)
        return given_up

    # -- the work -----------------------------------------------------------------------------------------------------------------

    def start_loop(self, *, only: int | None = None) -> None:
        """Begin to claim and to fetch; with `only`, the download of that id and no other."""
        self._loops = [
            asyncio.create_task(self._run(only), name="model downloads"),
            asyncio.create_task(self._every(self._times.heartbeat_s, self._beat), name="model downloads' heartbeat"),
        ]

    def problem(self) -> str | None:
        """Why nothing is fetched, or None while the loops are alive."""
        for loop in self._loops:
            if loop.done() and not self._stopping.is_set():
                return f"the {loop.get_name()} loop ended"
        return None

    def begin_stop(self) -> None:
        """Claim nothing more, and let the download at hand pause where it is."""
        self._stopping.set()
        self._wake.set()
        if self._current is not None:
            self._current.interrupt.set()

    async def stop(self) -> None:
        """Put the download at hand back into the queue, keep what has come, close every connection, and return."""
        self.begin_stop()
        if self._loops:
            await asyncio.wait(self._loops[:1])
        self._finished.set()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._http.aclose()

    async def run_once(self, *, only: int | None = None) -> bool:
        """Work at the next download, or the `only` one, until it has ended or been paused. False where there is none."""
        now = self._now()
        async with self._sessions.begin() as session:
            stale_before = now - timedelta(seconds=self._times.stale_after_s)
            download = await DownloadRepository(session).claim(self._worker, now=now, stale_before=stale_before, only=only)
        if download is None:
            return False
        self._current = _Current(download, Progress(download.bytes_done, download.bytes_total), Interrupt())
        if self._stopping.is_set():
            self._current.interrupt.set()
        try:
            await self._process(self._current)
        finally:
            self._current = None
        return True

    async def _run(self, only: int | None) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                while not self._stopping.is_set() and await self.run_once(only=only):
                    pass
                await self._clean_up()
            except (OSError, SQLAlchemyError):
                _log.exception("working at model downloads failed, trying again")
            if self._stopping.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.poll_s):
                    await self._wake.wait()

    async def _process(self, current: _Current) -> None:
        download = current.download
        try:
            outcome = await self._outcome(current)
        except Interrupted:
            async with self._sessions.begin() as session:
                await DownloadRepository(session).release(download.id, self._worker)
            _log.info("model download paused", extra={"download_id": download.id})
            return
        async with self._sessions.begin() as session:
            repository, now = DownloadRepository(session), self._now()
            if isinstance(outcome, Fetched):
                sha256, size_bytes = outcome.sha256, outcome.size_bytes
                ended = await repository.finish(download.id, self._worker, sha256=sha256, size_bytes=size_bytes, now=now)
            else:
                ended = await repository.fail(download.id, self._worker, str(outcome), now=now)
            if ended is not None and self._on_end is not None:
                self._on_end(session, ended)
        if ended is None:
            _log.warning("somebody else took the model download over", extra={"download_id": download.id})
            return
        _log.info("model download ended", extra={"download_id": download.id, "model": download.model_id, "outcome": ended.status})
        if isinstance(outcome, Fetched) or not outcome.resumable:
            await asyncio.to_thread(self._fetcher.staging(download.new).remove)

    async def _outcome(self, current: _Current) -> Fetched | DownloadFailed:
        """Failures are values from here on. Raises Interrupted."""
        download = current.download
        if download.attempts > self._times.max_attempts:
            return DownloadFailed(f"The server stopped unexpectedly while fetching this, {self._times.max_attempts} times.")
        current.progress.done_bytes = 0
        try:
            return await self._fetcher.fetch(download.new, current.progress, current.interrupt)
        except DownloadFailed as failure:
            _log.warning("model download failed", extra={"download_id": download.id, "reason": str(failure)})
            return failure
        except Interrupted:
            raise
        except Exception:  # noqa: BLE001
            # Nothing about one download, whatever its source sends, may end the loop for all others.
            _log.exception("a model download failed", extra={"download_id": download.id})
            return DownloadFailed("An internal error, see the server's log.")

    async def _beat(self) -> None:
        current = self._current
        if current is None:
            return
        done_bytes, total_bytes = current.progress.done_bytes, current.progress.total_bytes
        async with self._sessions.begin() as session:
            is_ours = await DownloadRepository(session).beat(
                current.download.id, self._worker, bytes_done=done_bytes, bytes_total=total_bytes, now=self._now()
            )
        if not is_ours and self._current is current:
            # It was taken for dead and taken over; two must not write the same files.
            current.interrupt.set()

    async def _clean_up(self) -> None:
        now = self._now()
        if self._cleaned_up_at is not None and now - self._cleaned_up_at < _CLEAN_UP_EVERY:
            return
        self._cleaned_up_at = now
        in_use = [(download.kind, download.model_id) for download in await self.running()]
        removed = await asyncio.to_thread(remove_unused, self._models_dir, in_use)
        if removed:
            _log.info("parts of model downloads that were given up are removed", extra={"folders": removed})

    async def _every(self, interval_s: float, action: Callable[[], Awaitable[None]]) -> None:
        """Until all work has ended; a database that is away for a while is logged and tried again."""
        while not self._finished.is_set():
            try:
                await action()
            except (OSError, SQLAlchemyError):
                _log.exception("a periodic task failed, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._finished.wait()
