"""Our own routes about jobs: list, look closely, cancel."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Security
from fastapi.responses import JSONResponse
from pydantic import JsonValue

from sdapi.dialects.base import job_id_of
from sdapi.domain.errors import JobNotFound
from sdapi.domain.job import Job, JobStatus

from .dependencies import KEY_HEADER, ClientId, Jobs
from .provided import Jobs as JobsSeam


def router() -> APIRouter:
    """GET /jobs, GET and DELETE /jobs/{id}; a key is needed and finds its own jobs only."""
    routes = APIRouter(prefix="/jobs", tags=["Jobs"], dependencies=[Security(KEY_HEADER)])

    @routes.get("")
    @routes.get("/", include_in_schema=False)
    async def list_jobs(client: ClientId, jobs: Jobs, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JSONResponse:
        """The newest jobs first."""
        return JSONResponse({"jobs": [_outline(job) for job in await jobs.list_for_client(client, limit)]})

    @routes.get("/{job_id}")
    @routes.get("/{job_id}/", include_in_schema=False)
    async def show_job(job_id: str, client: ClientId, jobs: Jobs) -> JSONResponse:
        """State, position in the queue, seconds to go and denoising steps done."""
        return JSONResponse(await _closely(await jobs.fetch(_id(job_id), client_id=client), jobs))

    @routes.delete("/{job_id}")
    @routes.delete("/{job_id}/", include_in_schema=False)
    async def cancel_job(job_id: str, client: ClientId, jobs: Jobs) -> JSONResponse:
        """Cancel: a waiting job at once, a running one after its current step. A finished one stays as it is."""
        return JSONResponse(await _closely(await jobs.cancel(_id(job_id), client_id=client), jobs))

    return routes


def _id(spelt: str) -> int:
    job_id = job_id_of(spelt)
    if job_id is None:
        raise JobNotFound
    return job_id


def _outline(job: Job) -> dict[str, JsonValue]:
    has_pictures = job.status is JobStatus.SUCCEEDED and not job.files_removed
    return {
        "id": job.id,
        "state": job.status.value,
        "kind": job.request.kind,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "output": [f"{job.public_url}/images/{name}" for name in job.output_names] if has_pictures else [],
        "error": job.error,
    }


async def _closely(job: Job, jobs: JobsSeam) -> dict[str, JsonValue]:
    progress = jobs.progress(job.id)
    return _outline(job) | {
        "position": await jobs.position(job) if job.status is JobStatus.QUEUED else 0,
        "eta": 0.0 if job.status.is_final else round(await jobs.eta_s(job), 2),
        "step": progress.step if progress else None,
        "steps": progress.steps if progress else None,
        "cancel_requested": job.cancel_requested,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
