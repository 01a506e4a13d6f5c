"""Models fetched and removed from the command line, through the same table and folder as a running server's downloads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sdapi.catalog.inventory import InventoryKind, ModelKind
from sdapi.db.migrations import upgrade
from sdapi.db.session import open_database
from sdapi.model_downloads import Download, ModelDownloads, NewDownload, remove_hand_placed
from sdapi.services import open_downloads
from sdapi.settings import Settings

_COMMAND_LINE = -1
"""In place of the id of the key that asked."""
_LOOK_EVERY_S = 0.2
_HEARTBEAT_S = 0.5
"""Progress is told with each heartbeat, and somebody is watching."""

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What an operator asks to have fetched. `kind` None: what it is there."""

    model_id: str
    url: str
    kind: ModelKind | None = None
    revision: str = ""
    sha256: str = ""
    replace: bool = False


def pull(settings: Settings, wanted: Wanted, show: Callable[[int, int | None], None]) -> Download:
    """The download, after it has ended. A running server may be the one that works at it.

    Interrupted, it is given up, and what has come stays: the next one continues. Raises InvalidRequest and DownloadFailed.
    """

    async def run(downloads: ModelDownloads) -> Download:
        try:
            kind = wanted.kind or await downloads.kind_of(wanted.url, wanted.revision)
            new = NewDownload(kind, wanted.model_id, wanted.url, wanted.revision, wanted.sha256, wanted.replace)
            started = await downloads.start(new, client_id=_COMMAND_LINE)
        except BaseException:
            await downloads.stop()
            raise
        downloads.start_loop(only=started.id)
        is_interrupted = True
        try:
            while True:
                download = await downloads.get(started.id)
                if download is None or download.is_final:
                    is_interrupted = False
                    return download or started
                show(download.bytes_done, download.bytes_total)
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            await downloads.stop()
            # One that somebody else asked for is left to the server.
            if is_interrupted and started.client_id == _COMMAND_LINE:
                await downloads.give_up(started.id, "It was interrupted; another request continues where this one ended.")

    return _with_downloads(settings, run)


def remove(settings: Settings, model_id: str, kind: InventoryKind) -> None:
    """Take a model out of the folder. Raises InvalidRequest while it is being fetched, ModelNotFound and NotAvailable."""
    if kind == "annotator" or kind == "safety" or kind == "translator" or kind == "video" or kind == "face":  # which are never fetched
        remove_hand_placed(settings.models_dir, kind, model_id)
        return

    async def run(downloads: ModelDownloads) -> None:
        try:
            await downloads.delete_model(model_id, (kind,))
        finally:
            await downloads.stop()

    _with_downloads(settings, run)


def _with_downloads(settings: Settings, use: Callable[[ModelDownloads], Awaitable[T]]) -> T:
    async def run() -> T:
        await upgrade(settings.sqlalchemy_url)
        async with open_database(settings.sqlalchemy_url, pool_size=3) as sessions:
            return await use(open_downloads(settings, sessions, heartbeat_s=min(_HEARTBEAT_S, settings.heartbeat_s)))

    return asyncio.run(run())
