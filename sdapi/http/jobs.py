"""Our own routes about jobs: list, look closely, watch, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response, Security
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import JsonValue

from sdapi.dialects.base import Rendered, job_id_of, output_links
from sdapi.domain.errors import JobNotFound
from sdapi.domain.job import Job, JobStatus

from . import plain
from .dependencies import KEY_HEADER, ClientId, Jobs, OpenServices, answer
from .job_events import StreamLimit, event_stream, is_over
from .provided import Jobs as JobsSeam
from .provided import Watch

_FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def own_job(job_id: str, client: ClientId, jobs: Jobs) -> Job:
    """The key's own job of the path. Raises JobNotFound."""
    return await jobs.fetch(_id(job_id), client_id=client)


async def watched(job: OwnJob, jobs: Jobs) -> AsyncIterator[Watch]:
    """A watch over the job of the path until the response was sent, however that ended."""
    async with jobs.watch(job.id) as watch:
        yield watch


OwnJob = Annotated[Job, Depends(own_job)]
Watched = Annotated[Watch, Depends(watched)]


def router() -> APIRouter:
    """What lies under /jobs; a key is needed and finds its own jobs only."""
    routes = APIRouter(prefix="/jobs", tags=["Jobs"], dependencies=[Security(KEY_HEADER)])
    streams = StreamLimit()

    @routes.get("")
    async def list_jobs(client: ClientId, jobs: Jobs, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JSONResponse:
        """The newest jobs first."""
        return JSONResponse({"jobs": [_outline(job) for job in await jobs.list_for_client(client, limit)]})

    @routes.get("/{job_id}")
    async def show_job(job: OwnJob, jobs: Jobs) -> JSONResponse:
        """State, position in the queue, seconds to go, denoising steps done, and where to see what it is becoming."""
        return JSONResponse(await _closely(jobs, job))

    @routes.delete("/{job_id}")
    async def cancel_job(job_id: str, client: ClientId, jobs: Jobs) -> JSONResponse:
        """Cancel: a waiting job at once, a running one after its current step. A finished one stays as it is."""
        return JSONResponse(await _closely(jobs, await jobs.cancel(_id(job_id), client_id=client)))

    @routes.get(
        "/{job_id}/preview",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 302: {"description": "The way to the finished picture"}},
    )
    async def preview(job: OwnJob, jobs: Jobs, opened: OpenServices) -> Response:
        """A small picture of what the job's first sample is becoming; of a finished job, the way to its first picture."""
        if not job.status.is_final:
            jpeg = await opened.previews.jpeg(job.id)
            if jpeg is not None:
                return Response(jpeg, media_type="image/jpeg", headers=_FRESH)
            job = await jobs.fetch(job.id, client_id=None)
        if links := _links(job):
            return RedirectResponse(links[0], status_code=302, headers=_FRESH)
        return answer(_no_preview(will_come=not job.status.is_final))

    async def counted(client: ClientId) -> AsyncIterator[None]:
        with streams.held(client):
            yield

    # Not response_class=EventSourceResponse: that marks generator routes, and `event_stream` says why this is none.
    described: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The client has seen the end already"},
    }

    @routes.get("/{job_id}/events", response_class=Response, responses=described, dependencies=[Depends(counted)])
    async def events(job: OwnJob, jobs: Jobs, watch: Watched, last_event_id: Annotated[str | None, Header()] = None) -> Response:
        """Server-sent events: `state` at once and at each change, `progress` in between; the stream ends with the job.

        Browsers' EventSource can't send headers: it may give the key as `?key=`.
        """
        return Response(status_code=204) if is_over(job, last_event_id) else event_stream(job, jobs, watch, partial(_closely, jobs))

    return routes


def _id(spelt: str) -> int:
    job_id = job_id_of(spelt)
    if job_id is None:
        raise JobNotFound
    return job_id


def _links(job: Job) -> list[str]:
    return [str(link) for link in output_links(job)] if job.status is JobStatus.SUCCEEDED and not job.files_removed else []


def _no_preview(*, will_come: bool) -> Rendered:
    message = "No preview yet" if will_come else "There is no picture of this request"
    return Rendered(404, plain.render_message(404, message).body, _FRESH | ({"Retry-After": "1"} if will_come else {}))


def _outline(job: Job) -> dict[str, JsonValue]:
    return {
        "id": job.id,
        "state": job.status.value,
        "kind": job.request.kind,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "output": [*_links(job)],
        "error": job.error,
    }


async def _closely(jobs: JobsSeam, job: Job) -> dict[str, JsonValue]:
    progress = None if job.status.is_final else jobs.progress(job.id)
    return _outline(job) | {
        "position": await jobs.position(job) if job.status is JobStatus.QUEUED else 0,
        "eta": 0.0 if job.status.is_final else round(await jobs.eta_s(job), 2),
        "step": progress.step if progress else None,
        "steps": progress.steps if progress else None,
        "preview": f"{job.public_url}/jobs/{job.id}/preview" if progress else None,
        "cancel_requested": job.cancel_requested,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
