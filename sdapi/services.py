"""The composition root: settings choose the parts, one context opens and closes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.api_keys import ApiKeys
from sdapi.catalog import Assets, Catalog, embedded_assets_dir, embedded_model_dir
from sdapi.catalog.inventory import Inventory
from sdapi.db.session import open_database
from sdapi.dialects import enterprise, goapi, v3, v6
from sdapi.dialects.administration import download_webhook_body
from sdapi.dialects.base import Dialect, ReadLimits
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.errors import SdapiError
from sdapi.domain.job import Job
from sdapi.domain.limits import KeyLimits
from sdapi.engine.base import Engine
from sdapi.engine.local import LocalEngine
from sdapi.http.limits import HttpLimits
from sdapi.jobs.board import JobBoard
from sdapi.jobs.dispatcher import Dispatcher, DispatchTimes
from sdapi.jobs.endings import Endings
from sdapi.jobs.eta import Estimator
from sdapi.jobs.png_texts import PngTexts
from sdapi.jobs.previews import Previews
from sdapi.jobs.requests import RequestBuilder
from sdapi.jobs.retention import Retention
from sdapi.jobs.safety_finding import warn_of_safety
from sdapi.jobs.service import JobService, QueueLimits
from sdapi.machine import Machine
from sdapi.metrics import Metrics
from sdapi.model_downloads import Download, DownloadSources, DownloadTimes, ModelDownloads
from sdapi.quotas import Quotas
from sdapi.remote_images import RemoteImages
from sdapi.restart import Restarts
from sdapi.server_secret import ServerSecret, open_server_secret
from sdapi.settings import Settings
from sdapi.storage import LocalStorage, S3Storage, Storage, StorageTargets, SwitchingStorage, configured_target
from sdapi.storage.client_buckets import ClientBuckets
from sdapi.updates import Updates
from sdapi.uploads import Uploads
from sdapi.webhooks import WebhookSender, enqueue, open_webhook_client, secret_text

DIALECTS: tuple[Dialect, ...] = (goapi, v3, v6, enterprise)
"""Every dialect that is spoken here; each has a routes module of its name in `sdapi/http/`."""

_RETENTION_INTERVAL_S = 3600.0


@dataclass(frozen=True)
class Services:
    """Everything the HTTP edge and the command line work with."""

    jobs: JobService
    previews: Previews
    dialects: Mapping[str, Dialect]
    api_keys: ApiKeys
    storage: Storage
    storage_targets: StorageTargets
    catalog: Catalog
    assets: Assets
    downloads: ModelDownloads
    images: RemoteImages
    uploads: Uploads
    quotas: Quotas
    restarts: Restarts
    updates: Updates
    machine: Machine
    limits: HttpLimits
    engine: Engine
    board: JobBoard
    dispatcher: Dispatcher
    retention: Retention
    webhooks: WebhookSender
    metrics: Metrics
    default_model: str
    sessions: async_sessionmaker[AsyncSession]

    async def problem(self) -> str | None:
        """Why the server is not alive, or None: a loop ended, the engine broke, or the database is away."""
        try:
            async with self.sessions() as session:
                await session.execute(text("SELECT 1"))
        except (OSError, SQLAlchemyError):
            return "the database does not answer"
        return (
            self.dispatcher.problem()
            or self.retention.problem()
            or self.webhooks.problem()
            or self.downloads.problem()
            or self.engine.problem()
        )

    async def not_ready(self) -> list[str]:
        """Why no picture could be drawn now, or not at once; empty when one could."""
        reasons = [problem] if (problem := await self.problem()) else []
        try:
            await asyncio.to_thread(self.catalog.get, self.default_model)
        except SdapiError:
            reasons.append(f"the default model {self.default_model!r} is not there")
        if coming := self.engine.preloading():
            reasons.append(f"being loaded: {', '.join(coming)}")
        if self.board.closing.is_set():
            reasons.append("the server is stopping")
        return reasons

    def begin_stop(self) -> None:
        """Claim nothing more and let waiting calls answer `processing`."""
        self.board.closing.set()
        self.dispatcher.begin_stop()
        self.downloads.begin_stop()


def _now() -> datetime:
    return datetime.now(UTC)


def open_catalog(settings: Settings) -> Catalog:
    """The checkpoints of `models_dir` and the embedded model."""
    return Catalog(settings.models_dir, aliases=settings.model_aliases, embedded=embedded_model_dir())


def open_assets(settings: Settings) -> Assets:
    """What lies beside the checkpoints of `models_dir`, and beside the embedded model."""
    return Assets(settings.models_dir, embedded=embedded_assets_dir())


def open_inventory(settings: Settings) -> Inventory:
    """Everything in `models_dir`, and what is embedded, for the command line."""
    return Inventory(open_catalog(settings), open_assets(settings), settings.models_dir)


def _drawn_at_once(settings: Settings) -> int:
    """Pictures in flight: while one batch is at its step, as many again are ready to take the places that become free."""
    return 2 * settings.max_rows


def open_engine(settings: Settings, catalog: Catalog, assets: Assets, *, owns_process: bool = False) -> LocalEngine:
    """The engine the settings ask for, not yet started."""
    options = DeviceOptions(
        settings.device,
        settings.dtype,
        settings.torch_threads,
        settings.max_rows,
        settings.model_cache_bytes,
        unload_after_s=settings.unload_after_s,
        compiled_dir=settings.data_dir / "compiled" if settings.compile else None,
        compiles_what_pays=settings.compile == "auto",
        is_deterministic=settings.deterministic,
        quantize=settings.quantize,
        owns_process=owns_process,
        profile_path=settings.data_dir / "device-profile.json",
        host_cache_bytes=settings.host_cache_bytes,
    )
    return LocalEngine(catalog, assets, options, max_rows=_drawn_at_once(settings), safety=settings.safety)


def open_api_keys(settings: Settings, sessions: async_sessionmaker[AsyncSession]) -> ApiKeys:
    """The keys of the database and the one of the settings."""
    return ApiKeys(sessions, settings.api_key.get_secret_value() if settings.api_key else None, _now)


def open_secret(settings: Settings) -> ServerSecret:
    """What webhooks are signed and credentials sealed with. Reads or makes a file, so call it in a thread where that matters."""
    return open_server_secret(settings.secret_key.get_secret_value() if settings.secret_key else None, settings.data_dir)


def webhook_secret(settings: Settings, secret: ServerSecret) -> str:
    """The text receivers of webhooks verify with."""
    configured = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
    return secret_text(configured, secret.subkey("webhooks"))


def _configured_bucket(settings: Settings) -> S3Storage | None:
    if not settings.s3_bucket:
        return None
    target = configured_target(
        bucket=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        public_url=settings.s3_public_url,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key.get_secret_value() if settings.s3_secret_access_key else None,
        directory=settings.s3_directory,
    )
    return S3Storage(target, link_lifetime=timedelta(seconds=settings.s3_link_lifetime_s))


async def _open_storage(
    stack: AsyncExitStack, settings: Settings, sessions: async_sessionmaker[AsyncSession], secret: ServerSecret
) -> tuple[SwitchingStorage, StorageTargets]:
    buckets = ClientBuckets(allow_private=settings.allow_private_urls, link_lifetime=timedelta(seconds=settings.s3_link_lifetime_s))
    stack.push_async_callback(buckets.aclose)
    targets = StorageTargets(
        sessions=sessions,
        sealer=secret.sealer("storage targets"),
        buckets=buckets,
        keep_former=timedelta(days=settings.retention_days),
        now=_now,
    )
    storage = SwitchingStorage(local=LocalStorage(settings.data_dir / "images"), configured=_configured_bucket(settings), targets=targets)
    await storage.open()
    return storage, targets


async def _open_webhooks(
    stack: AsyncExitStack, settings: Settings, sessions: async_sessionmaker[AsyncSession], secret: ServerSecret
) -> WebhookSender:
    client = await stack.enter_async_context(open_webhook_client(allow_private=settings.allow_private_urls))
    return WebhookSender(sessions=sessions, client=client, secret=webhook_secret(settings, secret).encode(), now=_now)


def open_downloads(settings: Settings, sessions: async_sessionmaker[AsyncSession], *, heartbeat_s: float | None = None) -> ModelDownloads:
    """What fetches models into `models_dir`, not yet started."""

    def on_end(session: AsyncSession, download: Download) -> None:
        if download.webhook_url is not None:
            enqueue(session, url=download.webhook_url, body=download_webhook_body(download), now=_now())

    return ModelDownloads(
        sessions=sessions,
        models_dir=settings.models_dir,
        sources=DownloadSources(
            hub_url=settings.hub_url,
            hosts=settings.model_hosts,
            max_bytes=settings.model_download_max_bytes,
            allow_private=settings.allow_private_urls,
        ),
        times=DownloadTimes(heartbeat_s or settings.heartbeat_s, settings.stale_after_s, settings.max_attempts),
        now=_now,
        on_end=on_end,
    )


def _open_images(settings: Settings, storage: Storage) -> RemoteImages:
    return RemoteImages(
        storage=storage,
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        timeout_s=settings.image_timeout_s,
        allow_private=settings.allow_private_urls,
    )


def _open_quotas(settings: Settings, sessions: async_sessionmaker[AsyncSession]) -> Quotas:
    defaults = KeyLimits(
        max_queued_jobs=settings.key_max_queued_jobs,
        requests_per_minute=settings.key_requests_per_minute,
        daily_pictures=settings.key_daily_pictures,
    )
    return Quotas(sessions, defaults=defaults, repeats_per_30_s=settings.repeats_per_30_s, now=_now)


def _http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_body_bytes=settings.max_body_bytes,
        max_file_bytes=settings.max_image_bytes,
        reading=ReadLimits(max_side_px=settings.max_side_px),
        sync_wait_s=settings.sync_wait_s,
        fetch_requires_key=settings.fetch_requires_key,
        standard_error_status=settings.error_status == "standard",
        public_url=settings.public_url,
        incoming_dir=settings.data_dir / "incoming",
    )


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics, *, owns_process: bool = False) -> AsyncIterator[Services]:
    """Build and start what `settings` asks for; stop and close it in reverse order. The database must be migrated.

    `owns_process` says that nothing else is done in this process.
    """
    async with AsyncExitStack() as stack:
        sessions = await stack.enter_async_context(open_database(settings.sqlalchemy_url, pool_size=settings.database_pool_size))
        secret = await asyncio.to_thread(open_secret, settings)
        storage, targets = await _open_storage(stack, settings, sessions, secret)
        webhooks = await _open_webhooks(stack, settings, sessions, secret)
        catalog = open_catalog(settings)
        assets = open_assets(settings)
        await asyncio.to_thread(warn_of_safety, settings.safety, assets.safety)
        images = _open_images(settings, storage)
        stack.push_async_callback(images.aclose)
        quotas = _open_quotas(settings, sessions)
        board = JobBoard()
        engine = open_engine(settings, catalog, assets, owns_process=owns_process)
        dialects = {dialect.NAME: dialect for dialect in DIALECTS}
        endings = Endings(dialects, _now)

        def on_end(job: Job) -> None:
            metrics.job_ended(job.status, drawing_s=job.generation_time_s)
            if job.webhook_url is not None:
                webhooks.wake()

        jobs = JobService(
            sessions=sessions,
            dialects=dialects,
            requests=RequestBuilder(
                catalog=catalog,
                assets=assets,
                images=images,
                storage=storage,
                default_model=settings.default_model,
                merges_tokens_by_default=settings.tomesd_by_default,
                safety=settings.safety,
                enhance_with=settings.enhance_prompt,
            ),
            quotas=quotas,
            storage=storage,
            board=board,
            estimator=Estimator(sessions, board, engine, drawn_at_once=_drawn_at_once(settings), now=_now),
            endings=endings,
            on_end=on_end,
            limits=QueueLimits(settings.max_queued_jobs, settings.sync_wait_s),
            now=_now,
        )
        dispatcher = Dispatcher(
            sessions=sessions,
            engine=engine,
            storage=storage,
            board=board,
            times=DispatchTimes(settings.heartbeat_s, settings.stale_after_s, settings.max_attempts, settings.stop_grace_s),
            png_texts=PngTexts(catalog, assets, enabled=settings.png_metadata),
            endings=endings,
            on_end=on_end,
            now=_now,
        )
        keep = timedelta(days=settings.retention_days)
        downloads = open_downloads(settings, sessions)
        uploads = Uploads(sessions=sessions, storage=storage, images=images, keep=keep, now=_now)
        restarts = Restarts()
        updates = Updates(command=settings.update_command, timeout_s=settings.update_timeout_s, restarts=restarts)
        retention = Retention(
            sessions=sessions,
            storage=storage,
            keep=keep,
            interval_s=_RETENTION_INTERVAL_S,
            now=_now,
            chores=(lambda: webhooks.clean_up(_now() - keep), lambda: quotas.clean_up(_now()), uploads.clean_up),
        )
        # What sends webhooks stops after what writes them.
        webhooks.start()
        stack.push_async_callback(webhooks.stop)
        downloads.start_loop()
        stack.push_async_callback(downloads.stop)
        dispatcher.start()
        stack.push_async_callback(dispatcher.stop)
        engine.preload(settings.preload or ())
        retention.start()
        stack.push_async_callback(retention.stop)
        stack.push_async_callback(updates.stop)
        yield Services(
            jobs=jobs,
            previews=Previews(engine=engine, board=board),
            dialects=dialects,
            api_keys=open_api_keys(settings, sessions),
            storage=storage,
            storage_targets=targets,
            catalog=catalog,
            assets=assets,
            downloads=downloads,
            images=images,
            uploads=uploads,
            quotas=quotas,
            restarts=restarts,
            updates=updates,
            machine=Machine(settings.device, settings.models_dir, settings.data_dir, _now()),
            limits=_http_limits(settings),
            engine=engine,
            board=board,
            dispatcher=dispatcher,
            retention=retention,
            webhooks=webhooks,
            metrics=metrics,
            default_model=settings.default_model,
            sessions=sessions,
        )
        board.closing.set()
