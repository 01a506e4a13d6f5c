"""Watching and stopping what is drawn, on a real server behind a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from sqlalchemy import update

from sdapi.app import create_app
from sdapi.db.tables import JobRow
from sdapi.domain.job import JobStatus
from sdapi.services import Services
from sdapi.settings import Settings

from .running import eventually, settings_for

LONG = {"prompt": "a red circle on a blue background", "width": 256, "height": 256, "num_inference_steps": 51, "samples": 4}
SHORT = {"prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 30}


@dataclass
class Served:
    client: httpx.AsyncClient
    services: Services
    key: str

    async def asked(self, body: dict[str, Any]) -> int:
        job_id: int = (await self.client.post("/sd/txt2img", json=body)).json()["id"]
        return job_id

    async def until_state(self, job_id: int, *states: str) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            seen: dict[str, Any] = (await self.client.get(f"/jobs/{job_id}")).json()
            return seen if seen["state"] in states else None

        seen = await eventually(look)
        assert seen is not None
        return seen

    async def until_drawing(self, job_id: int) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            seen: dict[str, Any] = (await self.client.get(f"/jobs/{job_id}")).json()
            return seen if seen["preview"] else None

        seen = await eventually(look)
        assert seen is not None
        return seen

    async def until_nobody_watches(self) -> None:
        async def nobody() -> bool:
            return not self.services.board.watched()

        await eventually(nobody)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Served]:
    """The application behind uvicorn on a free port: only a real connection can be closed while it streams."""
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, ws="none", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    try:

        async def started() -> bool:
            assert not serving.done(), serving
            return server.started

        await eventually(started)
        port = server.servers[0].sockets[0].getsockname()[1]
        services: Services = app.state.services
        _, key = await services.api_keys.create("test", "user")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"X-API-KEY": key}, timeout=60) as client:
            yield Served(client, services, key)
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(settings_for(tmp_path, sync_wait_s=0, stale_after_s=60, stop_grace_s=0)) as opened:
        yield opened


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Names and data, as EventSource hands them out."""
    name, data = "", ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not line and data:
            yield name, json.loads(data)
            name, data = "", ""


async def test_the_events_tell_a_jobs_whole_story(server: Served) -> None:
    job_id = await server.asked({**SHORT, "width": 128, "height": 128, "samples": 4, "num_inference_steps": 51})
    async with server.client.stream("GET", f"/jobs/{job_id}/events") as response:
        told = [event async for event in events_of(response)]

    states = [data["state"] for name, data in told if name == "state"]
    steps = [data["step"] for name, data in told if name == "progress" and data["step"] is not None]
    assert states[0] in ("queued", "running")
    assert (states[-1], told[-1][0]) == ("succeeded", "state")
    assert len(told[-1][1]["output"]) == 4
    assert steps == sorted(set(steps))
    assert all(data.keys() == {"step", "steps", "position", "eta"} for name, data in told if name == "progress")


async def test_steps_are_told_while_they_are_made_and_a_preview_shows_them(server: Served) -> None:
    job_id = await server.asked(LONG)
    async with asyncio.timeout(60), server.client.stream("GET", f"/jobs/{job_id}/events", params={"key": server.key}) as response:
        async for name, data in events_of(response):
            if name == "progress" and data["step"]:
                assert 0 < data["step"] < data["steps"] == 204
                break
    seen = await server.until_drawing(job_id)
    preview = await server.client.get(f"/jobs/{job_id}/preview")

    assert seen["preview"].endswith(f"/jobs/{job_id}/preview")
    assert (preview.status_code, Image.open(BytesIO(preview.content)).size) == (200, (256, 256))
    await server.client.delete(f"/jobs/{job_id}")


async def test_the_preview_of_a_finished_job_is_its_picture(server: Served) -> None:
    job_id = await server.asked(SHORT)
    await server.until_state(job_id, "succeeded")
    response = await server.client.get(f"/jobs/{job_id}/preview", follow_redirects=True)
    assert Image.open(BytesIO(response.content)).size == (64, 64)


async def test_a_listener_who_leaves_leaves_nothing_behind(server: Served) -> None:
    job_id = await server.asked(LONG)
    await server.until_drawing(job_id)
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with server.client.stream("GET", f"/jobs/{job_id}/events") as response:
            async for _ in events_of(response):
                break
            assert server.services.board.watched() == 1
    await server.until_nobody_watches()

    async def tasks_are_gone() -> bool:
        return len(asyncio.all_tasks()) <= before

    await eventually(tasks_are_gone)
    await server.client.delete(f"/jobs/{job_id}")


async def test_streams_end_when_the_server_is_asked_to_stop(server: Served) -> None:
    job_id = await server.asked(LONG)
    async with asyncio.timeout(10), server.client.stream("GET", f"/jobs/{job_id}/events") as response:
        async for _ in events_of(response):
            server.services.begin_stop()
    await server.until_nobody_watches()


async def test_a_job_another_process_draws_is_followed_through_the_table(server: Served) -> None:
    job_id = await server.asked(SHORT)
    await server.until_state(job_id, "succeeded")

    async def elsewhere(**values: object) -> None:
        async with server.services.sessions.begin() as session:
            await session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))

    now = datetime.now(UTC)
    await elsewhere(status=JobStatus.RUNNING, worker="other:1:x", heartbeat_at=now, finished_at=None)
    assert (await server.client.get(f"/jobs/{job_id}/preview")).status_code == 404
    states = []
    async with asyncio.timeout(20), server.client.stream("GET", f"/jobs/{job_id}/events") as response:
        async for name, data in events_of(response):
            states.append(data["state"])
            assert (name, data["preview"]) == ("state", None)
            await elsewhere(status=JobStatus.SUCCEEDED, finished_at=now)
    assert states == ["running", "succeeded"]


async def test_a_cancelled_job_stops_within_a_step(server: Served) -> None:
    job_id = await server.asked(LONG)
    await server.until_drawing(job_id)
    seen = (await server.client.delete(f"/jobs/{job_id}")).json()
    asked_at = time.monotonic()
    assert seen["cancel_requested"] is True
    last = await server.until_state(job_id, "cancelled")
    assert last["output"] == []
    assert time.monotonic() - asked_at < 5, "the whole job takes many times as long"
    assert seen["step"] < 102, "it was caught in its first half"


async def test_a_job_cancelled_in_the_queue_never_starts(tmp_path: Path) -> None:
    async with serving(settings_for(tmp_path, sync_wait_s=0, stale_after_s=60, stop_grace_s=0, max_rows=2)) as server:
        first = await server.asked(LONG)
        await server.until_drawing(first)
        waiting = await server.asked(LONG)
        assert (await server.client.delete(f"/jobs/{waiting}")).json()["state"] == "cancelled"
        await server.client.delete(f"/jobs/{first}")
        after = await server.asked(SHORT)
        await server.until_state(after, "succeeded")
        shown = (await server.client.get(f"/jobs/{waiting}")).json()
        assert (shown["state"], shown["started_at"], shown["output"]) == ("cancelled", None, [])
