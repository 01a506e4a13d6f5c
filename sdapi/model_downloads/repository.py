"""Every SQL statement about model downloads.

A change of state is one conditional UPDATE; None from it means that somebody else was first. Rows stay in here, `Download` values leave.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Select, and_, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from sdapi.catalog.inventory import ModelKind
from sdapi.db.tables import ModelDownloadRow

from .download import Download, DownloadStatus, NewDownload, options_of

_AS_STORED: Final = {"synchronize_session": False, "populate_existing": True}
_UNFINISHED: Final = ("queued", "running")

Row = ModelDownloadRow


class DownloadRepository:
    """The model_downloads table, within the transaction of `session`; the caller commits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, new: NewDownload, *, client_id: int, webhook_url: str | None, now: datetime) -> tuple[Download, bool]:
        """Record `new` as queued, or find the unfinished download of the same model; and whether it was recorded."""
        recorded = insert(Row).values(
            client_id=client_id,
            kind=new.kind,
            model_id=new.model_id,
            url=new.url,
            options=dict(options_of(new)),
            status="queued",
            attempts=0,
            bytes_done=0,
            webhook_url=webhook_url,
            created_at=now,
        )
        try:
            async with self._session.begin_nested():
                row = (await self._session.scalars(recorded.returning(Row))).one()
                return _download(row), True
        except IntegrityError:  # the unique index on unfinished ones; the savepoint keeps the caller's transaction alive
            same = and_(Row.kind == new.kind, Row.model_id == new.model_id, Row.status.in_(_UNFINISHED))
            before = await self._one(select(Row).where(same))
            if before is None:
                # It ended between the two statements; the index has no reason left to refuse.
                return _download((await self._session.scalars(recorded.returning(Row))).one()), True
            return before, False

    async def get(self, download_id: int) -> Download | None:
        """The download of this id."""
        return await self._one(select(Row).where(Row.id == download_id))

    async def newest(self, limit: int) -> list[Download]:
        """The latest ones, newest first."""
        return await self._all(select(Row).order_by(Row.id.desc()).limit(limit))

    async def unfinished(self) -> list[Download]:
        """Those queued and running, oldest first."""
        return await self._all(select(Row).where(Row.status.in_(_UNFINISHED)).order_by(Row.id))

    async def claim(self, worker: str, *, now: datetime, stale_before: datetime, only: int | None = None) -> Download | None:
        """Take the oldest download (or the `only` one) that waits, or whose worker has not been heard of since `stale_before`.

        Any number of workers may claim at once; none is taken twice. A claim that meets another one may find nothing.
        """
        free = or_(Row.status == "queued", and_(Row.status == "running", Row.heartbeat_at < stale_before))
        if only is not None:
            free = and_(free, Row.id == only)
        candidate = select(Row.id).where(free).order_by(Row.id).limit(1).with_for_update(skip_locked=True).cte("candidate")
        return await self._one(
            update(Row)
            # SQLite has no FOR UPDATE SKIP LOCKED; there the condition here is what keeps a download from being taken twice.
            .where(Row.id.in_(select(candidate.c.id)), free)
            .values(status="running", worker=worker, heartbeat_at=now, attempts=Row.attempts + 1)
            .returning(Row)
        )

    async def beat(self, download_id: int, worker: str, *, bytes_done: int, bytes_total: int | None, now: datetime) -> bool:
        """Say that `worker` is at it, and how far. False where it is not its download any more."""
        progress = {"heartbeat_at": now, "bytes_done": bytes_done, "bytes_total": bytes_total}
        return await self._held(download_id, worker, progress) is not None

    async def release(self, download_id: int, worker: str) -> None:
        """Put it back into the queue, as if never begun; what has come stays in its staging folder."""
        again: dict[str, Any] = {"status": "queued", "worker": None, "heartbeat_at": None, "attempts": Row.attempts - 1}
        await self._held(download_id, worker, again)

    async def finish(self, download_id: int, worker: str, *, sha256: str, size_bytes: int, now: datetime) -> Download | None:
        """Running to installed; None where `worker` does not hold it any more."""
        sizes = {"bytes_done": size_bytes, "bytes_total": size_bytes}
        return await self._held(download_id, worker, {"status": "installed", "sha256": sha256, **sizes, "finished_at": now})

    async def fail(self, download_id: int, worker: str, sentence: str, *, now: datetime) -> Download | None:
        """Running to failed; None where `worker` does not hold it any more."""
        return await self._held(download_id, worker, {"status": "failed", "error": sentence, "finished_at": now})

    async def withdraw(self, download_id: int, sentence: str, *, now: datetime) -> Download | None:
        """Queued to failed; None where somebody works at it, or it has ended."""
        queued = and_(Row.id == download_id, Row.status == "queued")
        return await self._one(update(Row).where(queued).values(status="failed", error=sentence, finished_at=now).returning(Row))

    async def _held(self, download_id: int, worker: str, values: dict[str, Any]) -> Download | None:
        held: ColumnElement[bool] = and_(Row.id == download_id, Row.status == "running", Row.worker == worker)
        return await self._one(update(Row).where(held).values(values).returning(Row))

    async def _all(self, statement: Select[ModelDownloadRow]) -> list[Download]:
        return [_download(row) for row in await self._session.scalars(statement, execution_options=_AS_STORED)]

    async def _one(
        self, statement: Select[ModelDownloadRow] | ReturningUpdate[ModelDownloadRow] | ReturningInsert[ModelDownloadRow]
    ) -> Download | None:
        row = (await self._session.scalars(statement, execution_options=_AS_STORED)).one_or_none()
        return None if row is None else _download(row)


def _download(row: ModelDownloadRow) -> Download:
    options = row.options
    return Download(
        id=row.id,
        client_id=row.client_id,
        new=NewDownload(
            kind=cast("ModelKind", row.kind),
            model_id=row.model_id,
            url=row.url,
            revision=str(options.get("revision") or ""),
            sha256=str(options.get("sha256") or ""),
            replace=bool(options.get("replace")),
        ),
        status=cast("DownloadStatus", row.status),
        attempts=row.attempts,
        bytes_done=row.bytes_done,
        bytes_total=row.bytes_total,
        sha256=row.sha256,
        error=row.error,
        webhook_url=row.webhook_url,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
