"""What /metrics tells, to whom, and that strangers can't make it grow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.session import open_database
from sdapi.db.tables import JobRow
from sdapi.domain.generation import Txt2Img
from sdapi.domain.job import JobStatus, NewJob
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.http import error_handlers
from sdapi.http import metrics as http_metrics
from sdapi.http.metrics import RequestMetrics
from sdapi.jobs.repository import JobRepository
from sdapi.jobs.scrape import Scrape
from sdapi.metrics import Metrics

from .fakes_http import KEY, fake_services

Sessions = async_sessionmaker[AsyncSession]
HEADERS = {"X-API-KEY": KEY}


def value(text: str | bytes, name: str, **labels: str) -> float | None:
    """Of this series; None when there is none."""
    families = text_string_to_metric_families(text if isinstance(text, str) else text.decode())
    return next((s.value for family in families for s in family.samples if s.name == name and s.labels == labels), None)


def routes_seen(metrics: Metrics) -> set[str]:
    families = text_string_to_metric_families(metrics.render(queued=0, running=0).decode())
    return {sample.labels["route"] for family in families for sample in family.samples if sample.name == "sdapi_http_requests_total"}


class NoDatabase:
    """A scrape that needs none."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def read(self) -> bytes:
        return self._metrics.render(queued=3, running=1)


@asynccontextmanager
async def client_of(folder: Path, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with /metrics, a route that answers and one that breaks."""
    routes = APIRouter()

    @routes.get("/things/{number}")
    @routes.get("/things/{number}/")
    async def thing(number: int) -> JSONResponse:
        return JSONResponse({"number": number})

    @routes.get("/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    app = FastAPI(redirect_slashes=False)
    app.include_router(routes)
    app.include_router(http_metrics.router())
    error_handlers.install(app)
    app.add_middleware(RequestMetrics, metrics=metrics)
    app.state.services = fake_services(folder)
    app.state.scrape = NoDatabase(metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(tmp_path: Path, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tmp_path, metrics) as client:
        yield client


@pytest.mark.parametrize("headers", [{"X-API-KEY": KEY}, {"Authorization": f"Bearer {KEY}"}])
async def test_a_valid_key_reads_the_metrics(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.get("/metrics", headers=headers)

    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert (value(answer.text, "sdapi_jobs_queued"), value(answer.text, "sdapi_jobs_running")) == (3, 1)


@pytest.mark.parametrize("headers", [{}, {"X-API-KEY": "sd_wrong"}])
async def test_nobody_else_does(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.get("/metrics", headers=headers)
    assert (answer.status_code, "sdapi_" in answer.text) == (401, False)


async def test_requests_are_counted_by_route_method_and_status(client: httpx.AsyncClient) -> None:
    for path in ("/things/1", "/things/2/", "/things/x", "/broken"):
        await client.get(path)
    await client.post("/things/1")

    text = (await client.get("/metrics", headers=HEADERS)).text

    def counted(route: str, method: str, status: str) -> float | None:
        return value(text, "sdapi_http_requests_total", route=route, method=method, status=status)

    assert counted("/things/{number}", "GET", "200") == 2, "a slash at the end makes no other route"
    assert counted("/things/{number}", "GET", "400") == 1
    assert counted("/things/{number}", "POST", "405") == 1
    assert counted("/broken", "GET", "500") == 1
    assert value(text, "sdapi_http_request_seconds_count", route="/things/{number}", method="GET") == 3


async def test_strangers_cannot_make_new_series(client: httpx.AsyncClient, metrics: Metrics) -> None:
    for n in range(30):
        await client.request(f"BREW{n}", f"/nowhere/{n}")

    assert routes_seen(metrics) == {"other"}
    text = metrics.render(queued=0, running=0)
    assert value(text, "sdapi_http_requests_total", route="other", method="other", status="404") == 30


def test_ended_jobs_are_counted_by_state_and_the_time_they_were_drawn(metrics: Metrics) -> None:
    metrics.job_ended(JobStatus.SUCCEEDED, drawing_s=3.0)
    metrics.job_ended(JobStatus.FAILED)

    text = metrics.render(queued=0, running=0)

    assert [value(text, "sdapi_jobs_total", state=state) for state in ("succeeded", "failed", "cancelled")] == [1, 1, 0]
    assert (value(text, "sdapi_drawing_seconds_count"), value(text, "sdapi_drawing_seconds_sum")) == (1, 3)


def test_the_process_is_told(metrics: Metrics) -> None:
    assert (value(metrics.render(queued=0, running=0), "process_resident_memory_bytes") or 0) > 1e6


def test_two_in_one_process_count_apart(metrics: Metrics) -> None:
    Metrics().job_ended(JobStatus.FAILED)
    assert value(metrics.render(queued=0, running=0), "sdapi_jobs_total", state="failed") == 0


async def test_waiting_and_running_jobs_are_read_from_the_database(sessions: Sessions, metrics: Metrics) -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    async with sessions.begin() as session:
        jobs = [await JobRepository(session).add(a_new_job(), now=at) for _ in range(6)]
        for job, status in zip(jobs, (JobStatus.RUNNING, JobStatus.SUCCEEDED, JobStatus.CANCELLED), strict=False):
            await session.execute(update(JobRow).where(JobRow.id == job.id).values(status=status))

    text = await Scrape(metrics, sessions).read()

    told = ("sdapi_jobs_queued", "sdapi_jobs_running", "sdapi_database_up")
    assert [value(text, name) for name in told] == [3, 1, 1]


async def test_an_empty_queue_is_zero(sessions: Sessions, metrics: Metrics) -> None:
    text = await Scrape(metrics, sessions).read()
    assert (value(text, "sdapi_jobs_queued"), value(text, "sdapi_jobs_running")) == (0, 0)


async def test_what_is_in_memory_and_on_its_way_is_told(sessions: Sessions, metrics: Metrics) -> None:
    waiting = frozenset({"four", "five", "six"})
    in_memory = ModelsInMemory(frozenset({"one", "two"}), loading={"three": 1.0}, resident_bytes=500, on_host=waiting, host_bytes=70)
    text = await Scrape(metrics, sessions, lambda: in_memory).read()
    names = ("sdapi_models_in_memory", "sdapi_models_in_memory_bytes", "sdapi_models_loading")
    assert [value(text, name) for name in names] == [2, 500, 1]
    assert [value(text, name) for name in ("sdapi_models_on_host", "sdapi_models_on_host_bytes")] == [3, 70]


async def test_models_in_eight_bits_are_counted(sessions: Sessions, metrics: Metrics) -> None:
    in_memory = ModelsInMemory(frozenset({"one", "two"}), quantized=frozenset({"two"}))
    text = await Scrape(metrics, sessions, lambda: in_memory).read()
    assert [value(text, name) for name in ("sdapi_models_in_memory", "sdapi_models_quantized")] == [2, 1]


async def test_without_a_database_the_rest_is_told(tmp_path: Path, metrics: Metrics) -> None:
    metrics.job_ended(JobStatus.FAILED)
    async with open_database(f"sqlite:///{tmp_path}/empty.sqlite3", pool_size=1) as without_tables:
        text = await Scrape(metrics, without_tables).read()

    queued = cast("float", value(text, "sdapi_jobs_queued"))
    assert queued != queued, "not a number, which is not none"
    assert (value(text, "sdapi_database_up"), value(text, "sdapi_jobs_total", state="failed")) == (0, 1)


def a_new_job() -> NewJob:
    return NewJob(
        client_id=1,
        dialect="goapi",
        request=Txt2Img(checkpoint="demo", prompt="a cat", seed=1),
        cost=1.0,
        output_names=(),
        public_url="http://here",
    )
