"""From a download that was claimed to a model in its place: plan -> fetch -> verify -> install."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from sdapi.catalog import KIND_FOLDERS
from sdapi.catalog.checkpoint import Layout
from sdapi.catalog.hashes import folder_sha256
from sdapi.catalog.licences import licence_of
from sdapi.catalog.records import Origin, record_origin
from sdapi.domain.errors import InvalidRequest

from .download import FP16, DownloadFailed, NewDownload, Progress
from .http_source import HttpSource, Transient
from .hub import HubListing, choose_files, list_repository
from .interrupt import Interrupt
from .sources import AllowedHosts, DirectFile, HubFile, hub_file_url, parse_source
from .staging import Staging
from .transfer import Run, Transfer, TransferLimits, WantedFile, disk_failure, too_large

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    source: str
    """What the bytes come from; those of another source are no beginning of these."""
    layout: Layout
    files: tuple[WantedFile, ...]
    page: str
    """Where it comes from, to tell and to be read again; without what may be secret in a URL."""
    licence: str = ""


@dataclass(frozen=True)
class Fetched:
    """A model that is in its place."""

    sha256: str
    size_bytes: int


class Fetcher:
    """Fetches one model at a time into `models_dir`."""

    def __init__(self, models_dir: Path, http: HttpSource, *, hub_url: str, hosts: AllowedHosts, limits: TransferLimits) -> None:
        self._models_dir = models_dir
        self._http = http
        self._hub_url = hub_url
        self._hosts = hosts
        self._limits = limits
        self._transfer = Transfer(http, limits)

    def staging(self, new: NewDownload) -> Staging:
        """Where it grows."""
        return Staging(self._models_dir, new.kind, new.model_id)

    async def fetch(self, new: NewDownload, progress: Progress, interrupt: Interrupt) -> Fetched:
        """Have the model whole, verified and in its place; the staging folder is left to the caller.

        Raises DownloadFailed and Interrupted.
        """
        plan = await self._plan_persistently(new, interrupt)
        run = Run(self.staging(new), progress, interrupt)
        try:
            await asyncio.to_thread(run.staging.open, plan.source)
            done = await asyncio.to_thread(run.staging.installed_before, plan.layout)
            if done is not None:
                sha256 = _one_hash(done, plan.layout)
                await asyncio.to_thread(self._record, new, plan, sha256)
                return Fetched(sha256, sum(file.size_bytes or 0 for file in plan.files))
            hashes = await self._fetch_all(plan, run)
            interrupt.check()
            await asyncio.to_thread(run.staging.verify, plan.layout)
            interrupt.check()
            await asyncio.to_thread(run.staging.install, plan.layout, replace=new.replace)
        except OSError as failure:
            raise disk_failure(failure) from failure
        sha256 = _one_hash(hashes, plan.layout)
        await asyncio.to_thread(self._record, new, plan, sha256)
        return Fetched(sha256, progress.done_bytes)

    def _record(self, new: NewDownload, plan: _Plan, sha256: str) -> None:
        folder = self._models_dir / KIND_FOLDERS[new.kind]
        place = folder / (new.model_id if plan.layout == "diffusers" else f"{new.model_id}.safetensors")
        record(folder / f"{new.model_id}.toml", Origin(plan.page, sha256, plan.licence or licence_of(place, plan.layout)))

    async def _fetch_all(self, plan: _Plan, run: Run) -> dict[str, str]:
        sizes = [file.size_bytes for file in plan.files]
        known_bytes = sum(size for size in sizes if size is not None)
        if known_bytes > self._limits.max_bytes:
            raise too_large(known_bytes, self._limits.max_bytes)
        if None not in sizes:
            run.progress.total_bytes = known_bytes
        hashes: dict[str, str] = {}
        for file in plan.files:
            before_bytes = run.progress.done_bytes
            size_bytes, hashes[file.path] = await self._transfer.fetch(file, run)
            run.progress.done_bytes = before_bytes + size_bytes
        return hashes

    async def _plan_persistently(self, new: NewDownload, interrupt: Interrupt) -> _Plan:
        for delay_s in self._limits.retry_delays_s:
            try:
                return await self._plan(new, interrupt)
            except Transient:
                await interrupt.unless_set(asyncio.sleep(delay_s))
        try:
            return await self._plan(new, interrupt)
        except Transient as failure:
            raise DownloadFailed(str(failure), resumable=True) from failure

    async def _plan(self, new: NewDownload, interrupt: Interrupt) -> _Plan:
        try:
            source = parse_source(new, hub_url=self._hub_url, hosts=self._hosts)
        except InvalidRequest as refusal:  # the operator has taken a host off the list since it was accepted
            raise DownloadFailed(" ".join(refusal.problems["url"])) from refusal
        single = f"{new.model_id}.safetensors"
        expected = new.sha256.lower()
        if isinstance(source, DirectFile):
            page = str(httpx.URL(source.url).copy_with(query=None, fragment=None))
            return _Plan(source.url, "single_file", (WantedFile(single, source.url, None, expected),), page)
        listing = await list_repository(self._http, self._hub_url, source, interrupt)
        if isinstance(source, HubFile):
            if source.file not in listing.files:
                raise DownloadFailed(f"The repository {source.repository} has no file {source.file}.")
            chosen, layout = {single: source.file}, "single_file"
            page = hub_file_url(self._hub_url, source.repository, listing.revision, source.file)
        else:
            page = f"{self._hub_url}/{source.repository}/tree/{quote(listing.revision, safe='')}"
            choice = choose_files(listing, new.kind, prefer_fp16=new.revision == FP16)
            chosen = dict(choice.files) if choice.is_folder else {single: choice.files[""]}
            layout = "diffusers" if choice.is_folder else "single_file"
        if expected and layout == "diffusers":
            raise DownloadFailed("A SHA-256 can be expected of a single file only, but this is a folder of several.")
        files = tuple(self._wanted(source.repository, listing, path, file, expected) for path, file in chosen.items())
        # The choice belongs to it: files of the other precision must not be left over from an earlier try.
        identity = "\n".join([f"{self._hub_url} {source.repository} {listing.revision}", *sorted(chosen.values())])
        return _Plan(identity, "diffusers" if layout == "diffusers" else "single_file", files, page, listing.licence)

    def _wanted(self, repository: str, listing: HubListing, path: str, file: str, expected: str) -> WantedFile:
        listed = listing.files[file]
        if expected and listed.sha256 and expected != listed.sha256:
            raise DownloadFailed(f"The hub says that {file} has the SHA-256 {listed.sha256}, but {expected} was expected.")
        url = hub_file_url(self._hub_url, repository, listing.revision, file)
        return WantedFile(path, url, listed.size_bytes, expected or listed.sha256 or "")


def record(sidecar: Path, origin: Origin) -> None:
    """Note where an installed model came from. It is as usable without the note, so a full disk fails nothing."""
    try:
        record_origin(sidecar, origin)
    except OSError as failure:
        _log.warning("the origin of a model could not be noted", extra={"sidecar": sidecar.name, "reason": failure.strerror})


def _one_hash(hashes: Mapping[str, str], layout: Layout) -> str:
    """See `Download.sha256`."""
    return next(iter(hashes.values())) if layout == "single_file" else folder_sha256(hashes)
