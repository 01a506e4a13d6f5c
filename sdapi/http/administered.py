"""What administration, and the small calls around pictures and models, need beyond what drawing needs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from sdapi.api_keys import ApiKey
from sdapi.catalog import Assets, Catalog
from sdapi.engine.base import Engine
from sdapi.jobs.eta import QueueLoad
from sdapi.machine import Machine
from sdapi.model_downloads import Download, ModelKind, NewDownload
from sdapi.quotas import Quotas
from sdapi.remote_images import RemoteImages
from sdapi.restart import Restarts
from sdapi.storage import StorageTargets
from sdapi.updates import Updates
from sdapi.uploads import Uploads

from .dependencies import EnterpriseClient, services
from .provided import Jobs, Services

_log = logging.getLogger(__name__)


class AdministeredJobs(Jobs, Protocol):
    """The whole queue, not only one client's part of it."""

    async def queue_load(self) -> QueueLoad:
        """How much is waiting and running, and for how long."""

    async def clear_queue(self) -> int:
        """Cancel everything that waits, of all clients. How many jobs that ended."""

    async def remove_pictures(self, job_id: int, *, client_id: int) -> None:
        """Remove a finished job's pictures. Raises JobNotFound."""


class Downloads(Protocol):
    """Fetches models, and takes them away."""

    async def start(self, new: NewDownload, *, client_id: int, webhook_url: str | None = None) -> Download:
        """Queue the download and return at once. Raises InvalidRequest."""

    async def list(self, limit: int) -> Sequence[Download]:
        """The latest downloads, newest first."""

    async def running(self) -> Sequence[Download]:
        """Those queued and under way."""

    async def delete_model(self, model_id: str, kinds: Collection[ModelKind] = ...) -> Collection[ModelKind]:
        """Remove the models of these kinds and this id. Raises ModelNotFound, InvalidRequest, NotAvailable."""


class AdministeredServices(Services, Protocol):
    """What lies in `app.state.services`, all of it."""

    @property
    def jobs(self) -> AdministeredJobs:
        """The queue."""

    @property
    def catalog(self) -> Catalog:
        """The checkpoints."""

    @property
    def assets(self) -> Assets:
        """The other models."""

    @property
    def downloads(self) -> Downloads:
        """Models on their way."""

    @property
    def engine(self) -> Engine:
        """What draws."""

    @property
    def images(self) -> RemoteImages:
        """Fetches and decodes input pictures."""

    @property
    def uploads(self) -> Uploads:
        """Pictures clients have put here."""

    @property
    def quotas(self) -> Quotas:
        """What a key may ask for."""

    @property
    def storage_targets(self) -> StorageTargets:
        """The bucket of update_s3."""

    @property
    def restarts(self) -> Restarts:
        """Begins the server anew."""

    @property
    def updates(self) -> Updates:
        """Brings the server to a newer version."""

    @property
    def machine(self) -> Machine:
        """What all of this runs on."""


async def administered(opened: Annotated[Services, Depends(services)]) -> AdministeredServices:
    """What the lifespan has opened."""
    return cast("AdministeredServices", opened)


async def administrator(request: Request, client: EnterpriseClient) -> ApiKey:
    """The enterprise key that came with the request, noted in the log: for calls that change the server for everybody."""
    _log.info("administration", extra={"act": request.scope["path"].rstrip("/").rpartition("/")[2], "key_id": client.id})
    return client


Opened = Annotated[AdministeredServices, Depends(administered)]
Administrator = Annotated[ApiKey, Depends(administrator)]
