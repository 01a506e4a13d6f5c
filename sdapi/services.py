"""The composition root: settings choose the parts, one context opens and closes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.api_keys import ApiKeys
from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.db.session import open_database
from sdapi.domain.errors import SdapiError
from sdapi.engine.base import Engine
from sdapi.engine.local import LocalEngine
from sdapi.http.limits import HttpLimits
from sdapi.jobs.board import JobBoard
from sdapi.jobs.dispatcher import Dispatcher, DispatchTimes
from sdapi.jobs.retention import Retention
from sdapi.jobs.service import JobService, QueueLimits
from sdapi.remote_images import RemoteImages
from sdapi.settings import Settings
from sdapi.storage import LocalStorage, Storage

_RETENTION_INTERVAL_S = 3600.0


@dataclass(frozen=True)
class Services:
    """Everything the HTTP edge and the command line work with."""

    jobs: JobService
    api_keys: ApiKeys
    storage: Storage
    catalog: Catalog
    limits: HttpLimits
    engine: Engine
    board: JobBoard
    dispatcher: Dispatcher
    retention: Retention
    default_model: str
    sessions: async_sessionmaker[AsyncSession]

    async def problem(self) -> str | None:
        """Why the server is not alive, or None: a loop ended, the engine broke, or the database is away."""
        try:
            async with self.sessions() as session:
                await session.execute(text("SELECT 1"))
        except (OSError, SQLAlchemyError):
            return "the database does not answer"
        return self.dispatcher.problem() or self.retention.problem() or self.engine.problem()

    async def not_ready(self) -> list[str]:
        """Why no picture could be drawn now; empty when one could."""
        reasons = [problem] if (problem := await self.problem()) else []
        try:
            await asyncio.to_thread(self.catalog.get, self.default_model)
        except SdapiError:
            reasons.append(f"the default model {self.default_model!r} is not there")
        if self.board.closing.is_set():
            reasons.append("the server is stopping")
        return reasons

    def begin_stop(self) -> None:
        """Claim nothing more and let waiting calls answer `processing`."""
        self.board.closing.set()
        self.dispatcher.begin_stop()


def _now() -> datetime:
    return datetime.now(UTC)


def open_catalog(settings: Settings) -> Catalog:
    """The checkpoints of `models_dir` and the embedded model."""
    return Catalog(settings.models_dir, aliases=settings.model_aliases, embedded=embedded_model_dir())


def _drawn_at_once(settings: Settings) -> int:
    """Pictures in flight: while one batch is at its step, as many again are ready to take the places that become free."""
    return 2 * settings.max_rows


def open_engine(settings: Settings, catalog: Catalog) -> LocalEngine:
    """The engine the settings ask for, not yet started."""
    return LocalEngine(
        catalog,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.torch_threads,
        max_rows=_drawn_at_once(settings),
        max_batch_rows=settings.max_rows,
        model_cache_bytes=settings.model_cache_bytes,
    )


def open_api_keys(settings: Settings, sessions: async_sessionmaker[AsyncSession]) -> ApiKeys:
    """The keys of the database and the one of the settings."""
    return ApiKeys(sessions, settings.api_key.get_secret_value() if settings.api_key else None, _now)


def _open_images(settings: Settings, storage: Storage) -> RemoteImages:
    return RemoteImages(
        storage=storage,
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        timeout_s=settings.image_timeout_s,
        allow_private=settings.allow_private_urls,
    )


def _http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_body_bytes=settings.max_body_bytes,
        max_side_px=settings.max_side_px,
        sync_wait_s=settings.sync_wait_s,
        fetch_requires_key=settings.fetch_requires_key,
        public_url=settings.public_url,
    )


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Build and start what `settings` asks for; stop and close it in reverse order. The database must be migrated."""
    async with AsyncExitStack() as stack:
        sessions = await stack.enter_async_context(open_database(settings.sqlalchemy_url, pool_size=settings.database_pool_size))
        storage = LocalStorage(settings.data_dir / "images")
        await storage.open()
        catalog = open_catalog(settings)
        images = _open_images(settings, storage)
        stack.push_async_callback(images.aclose)
        board = JobBoard()
        engine = open_engine(settings, catalog)
        jobs = JobService(
            sessions=sessions,
            catalog=catalog,
            images=images,
            storage=storage,
            board=board,
            limits=QueueLimits(settings.default_model, settings.max_queued_jobs, settings.sync_wait_s, _drawn_at_once(settings)),
            now=_now,
        )
        dispatcher = Dispatcher(
            sessions=sessions,
            engine=engine,
            storage=storage,
            catalog=catalog,
            board=board,
            times=DispatchTimes(settings.heartbeat_s, settings.stale_after_s, settings.max_attempts, settings.stop_grace_s),
            png_metadata=settings.png_metadata,
            now=_now,
        )
        retention = Retention(
            sessions=sessions, storage=storage, keep=timedelta(days=settings.retention_days), interval_s=_RETENTION_INTERVAL_S, now=_now
        )
        dispatcher.start()
        stack.push_async_callback(dispatcher.stop)
        retention.start()
        stack.push_async_callback(retention.stop)
        yield Services(
            jobs=jobs,
            api_keys=open_api_keys(settings, sessions),
            storage=storage,
            catalog=catalog,
            limits=_http_limits(settings),
            engine=engine,
            board=board,
            dispatcher=dispatcher,
            retention=retention,
            default_model=settings.default_model,
            sessions=sessions,
        )
        board.closing.set()
