"""The administration calls, for enterprise keys: models, queue, caches, bucket, restart and update."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from sdapi.catalog import ASSET_KINDS
from sdapi.dialects import administration as told
from sdapi.dialects import enterprise as dialect
from sdapi.dialects.base import rejecting
from sdapi.dialects.wire_types import WireBody
from sdapi.model_downloads import MODEL_KINDS, Download, ModelKind, NewDownload
from sdapi.storage import target_of
from sdapi.webhooks import checked_url

from . import picture_calls
from .administered import AdministeredServices, Administrator, Opened
from .dependencies import Body, EnterpriseClient, Limits, answer
from .samples import documented

_LATEST_DOWNLOADS = 200
"""How many downloads are looked through for what became of a model."""
_VAE_FIELDS = {"model_id": "vae_id", "url": "vae_url"}


@dataclass(frozen=True)
class _Call:
    """One row of the table of paths."""

    names: tuple[str, ...]
    """Its last segment, in every spelling that was seen; the first is the documented one."""
    route: Callable[..., Awaitable[JSONResponse]]
    summary: str
    body: type[WireBody] | None = None


def add_administration_routes(routes: APIRouter, prefixes: Sequence[str]) -> None:
    """One POST route for each call under each prefix; the first prefix is in the documentation.

    The router itself asks for an enterprise key: some of these calls are every key's elsewhere.
    """
    for call in _CALLS:
        extra: dict[str, Any] = documented(dialect.NAME, call.names[0], call.body)
        for prefix in prefixes:
            for name in call.names:
                is_shown = prefix == prefixes[0]
                path = f"{prefix}/{name}"
                routes.add_api_route(
                    path, call.route, methods=["POST"], summary=call.summary, openapi_extra=extra, include_in_schema=is_shown
                )


# -- the server ------------------------------------------------------------------------------------------------------------------------


async def _system_details(services: Opened, client: EnterpriseClient) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    load = await services.jobs.queue_load()
    machine = await asyncio.to_thread(services.machine.look)
    look = told.SystemLook(
        model_count=len(await asyncio.to_thread(services.catalog.all)),
        queued=load.queued,
        running=load.running,
        queue_seconds=load.seconds,
        downloads=await services.downloads.running(),
        update="under way" if services.updates.under_way else services.updates.problem(),
        problem=await services.problem(),
        **asdict(machine),
    )
    return JSONResponse(told.system_details(look))


async def _restart_server(services: Opened, administrator: Administrator) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    services.restarts.request()
    return JSONResponse(told.done("server restarting"))


async def _update_server(services: Opened, administrator: Administrator) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    services.updates.start()
    return JSONResponse(told.done("server updating"))


async def _clear_cache(services: Opened, administrator: Administrator) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    freed_bytes = await services.engine.clear_caches()
    return JSONResponse(told.done("Cache cleared successfully", freed_bytes=freed_bytes))


async def _clear_queue(services: Opened, administrator: Administrator) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    return JSONResponse(told.done("Queue cleared successfully", cleared=await services.jobs.clear_queue()))


async def _update_s3(services: Opened, administrator: Administrator, body: Body) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    with rejecting():
        read = told.S3Body.model_validate(body)
    target = target_of(
        endpoint_url=read.endpoint_url,
        region_name=read.region_name,
        public_url=read.public_url,
        access_key_id=read.aws_access_key_id,
        secret_access_key=read.aws_secret_access_key,
        directory=read.image_directory,
        bucket=read.bucket,
    )
    await services.storage_targets.check(target)
    await services.storage_targets.set(target)
    return JSONResponse(told.done("S3 details updated", bucket=target.bucket, image_directory=target.directory))


async def _reset_s3(services: Opened, administrator: Administrator) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    was_set = await services.storage_targets.reset()
    return JSONResponse(told.done("S3 details reset" if was_set else "No S3 details were set"))


# -- models ----------------------------------------------------------------------------------------------------------------------------


async def _schedulers_list(client: EnterpriseClient) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    return JSONResponse(told.schedulers_list())


async def _get_all_models(services: Opened, client: EnterpriseClient) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    checkpoints = await asyncio.to_thread(services.catalog.all)
    assets = {kind: await asyncio.to_thread(services.assets.all, kind) for kind in ASSET_KINDS}
    return JSONResponse(told.all_models(checkpoints, assets))


async def _verify_model(services: Opened, client: EnterpriseClient, body: Body, limits: Limits) -> JSONResponse:  # noqa: ARG001
    with rejecting():
        read = told.ModelBody.model_validate(body)
    exists = await asyncio.to_thread(_is_installed, services, read.model_id, _kinds(read.kind))
    download = None if exists else await _latest_download(services, read.model_id, _kinds(read.kind))
    return answer(told.verified(exists=exists, download=download), dialect, limits)


async def _load_model(services: Opened, administrator: Administrator, body: Body) -> JSONResponse:
    with rejecting():
        asked = told.LoadModelBody.model_validate(body).asked()
    download = await _begin(services, asked, administrator.id)
    return JSONResponse(told.done("model load started", model_id=download.model_id))


async def _load_vae(services: Opened, administrator: Administrator, body: Body) -> JSONResponse:
    with rejecting():
        asked = told.LoadVaeBody.model_validate(body).asked()
    with told.renaming(_VAE_FIELDS):
        download = await _begin(services, asked, administrator.id)
    return JSONResponse(told.done("VAE load started", vae_id=download.model_id))


async def _delete_model(services: Opened, administrator: Administrator, body: Body) -> JSONResponse:  # noqa: ARG001
    with rejecting():
        read = told.ModelBody.model_validate(body)
    await services.downloads.delete_model(read.model_id.strip(), _kinds(read.kind))
    # Else the next model of this name would be drawn with the old one's weights.
    await services.engine.clear_caches()
    return JSONResponse(told.done("Model deleted on server"))


def _kinds(kind: ModelKind | None) -> Sequence[ModelKind]:
    return MODEL_KINDS if kind is None else (kind,)


def _is_installed(services: AdministeredServices, model_id: str, kinds: Sequence[ModelKind]) -> bool:
    """By its own name: whether another model would draw in its place doesn't count."""
    wanted = model_id.strip()
    has_checkpoint = "checkpoint" in kinds and any(wanted in (one.id, *one.aliases) for one in services.catalog.all())
    return has_checkpoint or any(
        wanted in (one.id, *one.aliases) for kind in ASSET_KINDS if kind in kinds for one in services.assets.all(kind)
    )


async def _latest_download(services: AdministeredServices, model_id: str, kinds: Sequence[ModelKind]) -> Download | None:
    latest = await services.downloads.list(_LATEST_DOWNLOADS)
    return next((one for one in latest if one.model_id == model_id.strip() and one.kind in kinds), None)


async def _begin(services: AdministeredServices, asked: told.AskedModel, client_id: int) -> Download:
    new = NewDownload(asked.kind, asked.model_id, asked.url, asked.revision, asked.sha256)
    webhook = None if asked.webhook is None else checked_url("webhook", asked.webhook)
    return await services.downloads.start(new, client_id=client_id, webhook_url=webhook)


_CALLS = (
    _Call(("system_details",), _system_details, "Tell how the server is."),
    _Call(("system_load",), picture_calls.system_load, "Tell how much waits."),
    _Call(("restart_server",), _restart_server, "Restart the server; what waits is drawn afterwards."),
    _Call(("update_server", "update"), _update_server, "Run the operator's update command, then restart."),
    _Call(("clear_cache",), _clear_cache, "Free the memory of models nobody uses."),
    _Call(("clear_queue",), _clear_queue, "Cancel everything that waits."),
    _Call(("update_s3", "update_s3_details"), _update_s3, "Put pictures into this bucket from now on.", told.S3Body),
    _Call(("reset_s3",), _reset_s3, "Put pictures where the settings say again."),
    _Call(("schedulers_list", "list_schedulers"), _schedulers_list, "List the schedulers."),
    _Call(("get_all_models",), _get_all_models, "List the installed models."),
    _Call(("verify_model",), _verify_model, "Tell whether a model is installed.", told.ModelBody),
    _Call(("load_model", "load_model_v2"), _load_model, "Fetch a model into the models folder.", told.LoadModelBody),
    _Call(("load_vae",), _load_vae, "Fetch a VAE into the models folder.", told.LoadVaeBody),
    _Call(("delete_model",), _delete_model, "Remove a model from the models folder.", told.ModelBody),
    _Call(("upload_image",), picture_calls.upload_image, "Keep a picture here.", told.UploadImageBody),
    _Call(("delete_image",), picture_calls.delete_image, "Remove an own picture.", told.DeleteImageBody),
    _Call(("nsfw_image_check",), picture_calls.nsfw_image_check, "Tell whether a picture is safe.", told.CheckImageBody),
)
