"""The small calls around pictures and models that every key may make: v3's own, and those enterprise shares with it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from sdapi.dialects import administration as told
from sdapi.dialects import v3
from sdapi.dialects.base import rejecting
from sdapi.domain.errors import JobNotFound, NotAvailable
from sdapi.domain.safety import NO_CHECKER

from .administered import AdministeredServices, Administrator, Opened
from .dependencies import Body, Client, PublicUrl
from .samples import documented


def add_picture_routes(routes: APIRouter) -> None:
    """The paths under v3, v4 and v5."""
    calls = (
        ("/api/v3/system_load", system_load, None, "Tell how much waits."),
        ("/api/v3/dreambooth/model_list", model_list, None, "List the models."),
        ("/api/v4/dreambooth/model_list", model_list, None, "List the models."),
        ("/api/v3/base64_crop", base64_crop, told.CropBody, "Keep a picture here, cut to a square."),
        ("/api/v3/delete_image", delete_image, told.DeleteImageBody, "Remove an own picture."),
        ("/api/v3/nsfw_image_check", nsfw_image_check, told.CheckImageBody, "Tell whether a picture is safe."),
        ("/api/v5/clear_cache", clear_cache, None, "Free the memory of models nobody uses; for enterprise keys."),
    )
    for path, route, body, summary in calls:
        extra = documented(v3.NAME, path.removeprefix("/api/").replace("/", "_"), body)
        routes.add_api_route(path, route, methods=["POST"], summary=summary, openapi_extra=extra)


async def system_load(services: Opened, client: Client) -> JSONResponse:  # noqa: ARG001 - a key is needed
    """How much waits, of all clients."""
    load = await services.jobs.queue_load()
    return JSONResponse(told.system_load(queued=load.queued, queue_seconds=load.seconds))


async def model_list(services: Opened, client: Client) -> JSONResponse:  # noqa: ARG001 - a key is needed
    """The checkpoints."""
    return JSONResponse(told.model_list(await asyncio.to_thread(services.catalog.all)))


async def base64_crop(request: Request, services: Opened, client: Client, body: Body, public_url: PublicUrl) -> JSONResponse:
    """Keep a picture, cut to a square where that is asked for."""
    with rejecting():
        read = told.CropBody.model_validate(body)
    await services.quotas.admit(client, path=request.scope["path"], body=body)
    upload = await services.uploads.add("image", read.image, client_id=client.id, square=read.crop, max_bytes=told.MAX_CROPPED_BYTES)
    link = await services.uploads.link(upload, public_url=public_url)
    return JSONResponse(told.done_both("image uploaded", link=link, request_id=upload.id))


async def upload_image(request: Request, services: Opened, client: Client, body: Body, public_url: PublicUrl) -> JSONResponse:
    """Keep a picture as it is."""
    with rejecting():
        read = told.UploadImageBody.model_validate(body)
    await services.quotas.admit(client, path=request.scope["path"], body=body)
    upload = await services.uploads.add("base64_image", read.base64_image, client_id=client.id, picture_format=read.image_type)
    link = await services.uploads.link(upload, public_url=public_url)
    return JSONResponse(told.done("image uploaded", image_url=link, request_id=upload.id))


async def delete_image(services: Opened, client: Client, body: Body) -> JSONResponse:
    """Remove the key's own picture: of a request or uploaded, by id, name or address."""
    with rejecting():
        asked = told.DeleteImageBody.model_validate(body).asked()
    if asked is None:
        raise JobNotFound
    if isinstance(asked, int):
        if not await services.uploads.remove(asked, client_id=client.id):
            await services.jobs.remove_pictures(asked, client_id=client.id)
    else:
        await _remove_named(services, asked, client.id)
    return JSONResponse(told.done_both("image deleted"))


async def nsfw_image_check(request: Request, services: Opened, client: Client, body: Body, public_url: PublicUrl) -> JSONResponse:
    """Tell by the installed safety checker; refused where there is none, because a guess would be worse."""
    with rejecting():
        read = told.CheckImageBody.model_validate(body)
    await services.quotas.admit(client, path=request.scope["path"], body=body)
    picture = await services.images.load("init_image", read.init_image, public_url=public_url)
    is_unsafe = await services.engine.is_unsafe(picture)
    if is_unsafe is None:
        raise NotAvailable(NO_CHECKER)
    return JSONResponse(told.picture_checked(read.init_image, is_unsafe=is_unsafe))


async def clear_cache(services: Opened, administrator: Administrator) -> JSONResponse:  # noqa: ARG001 - whose key is needed
    """As the enterprise call of that name, in the words v5 had for it."""
    return JSONResponse(told.done("Cache cleared", freed_bytes=await services.engine.clear_caches()))


async def _remove_named(services: AdministeredServices, names: tuple[str, ...], client_id: int) -> None:
    """The first of these that is a picture of the client's. Raises JobNotFound."""
    for name in names:
        if await services.uploads.remove_named(name, client_id=client_id):
            return
        job = await services.jobs.promised(name)
        if job is None or job.client_id != client_id or not job.status.is_final:
            continue
        if job.output_names == (name,):
            await services.jobs.remove_pictures(job.id, client_id=client_id)
        else:
            await services.storage.delete(name)
        return
    raise JobNotFound
