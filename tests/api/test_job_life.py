"""A job from queue to picture and beyond: processing, fetch, cancel, restart, retention."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import update

from sdapi.db.tables import JobRow
from sdapi.domain.job import JobStatus
from sdapi.engine.local import LocalEngine
from sdapi.jobs.retention import Retention

from .running import Running, eventually, running, settings_for

LONG = {"prompt": "a red circle on a blue background", "width": 256, "height": 256, "num_inference_steps": 51, "samples": 4}
SHORT = {"prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 3}


async def test_a_call_that_does_not_wait_is_processing_with_eta_and_fetch_finds_the_picture_later(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0)) as server:
        answer = (await server.client.post("/sd/txt2img", json=SHORT)).json()
        assert answer["status"] == "processing"
        assert isinstance(answer["eta"], float)
        assert answer["messege"] == answer["message"] == "Try to fetch request after seconds estimated"
        pending = (await server.stranger.post("/sd/fetch", json={"id": answer["id"]})).json()
        assert pending["status"] in ("processing", "success")
        done = await server.until(answer["id"])
        assert done.keys() == {"status", "id", "output"}
        assert (await server.picture(done["output"][0])).size == (64, 64)


async def test_fetch_accepts_the_id_as_text_and_by_get(server: Running) -> None:
    answer = await server.drawn(num_inference_steps=2)
    by_text = await server.stranger.post("/sd/fetch", json={"id": str(answer["id"])})
    by_get = await server.stranger.get("/sd/fetch", params={"id": answer["id"]})
    assert by_text.json() == by_get.json() == {"status": "success", "id": answer["id"], "output": answer["output"]}


async def test_with_a_key_fetch_finds_only_the_keys_own_jobs(server: Running) -> None:
    answer = await server.drawn(num_inference_steps=2)
    _, other = await server.services.api_keys.create("other", "user")
    response = await server.stranger.post("/sd/fetch", json={"id": answer["id"]}, headers={"X-API-KEY": other})
    assert response.json()["message"] == "Id not found"


async def test_a_setting_makes_fetch_ask_for_a_key(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, fetch_requires_key=True)) as server:
        answer = await server.drawn(num_inference_steps=2)
        assert (await server.stranger.post("/sd/fetch", json={"id": answer["id"]})).status_code == 401
        assert (await server.client.post("/sd/fetch", json={"id": answer["id"]})).json()["status"] == "success"


async def test_a_promised_picture_can_be_opened_before_it_is_ready(server: Running) -> None:
    call = asyncio.create_task(server.client.post("/sd/txt2img", json=SHORT))
    jobs = await eventually(lambda: server.services.jobs.list_for_client(1, 10))
    picture = await server.picture(f"http://sdapi.test/images/{jobs[0].output_names[0]}")
    assert picture.size == (64, 64)
    assert (await call).json()["status"] == "success"


async def test_a_running_job_can_be_watched_and_cancelled(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0)) as server:
        job_id = (await server.client.post("/sd/txt2img", json=LONG)).json()["id"]
        await server.drawing(job_id)
        seen = (await server.client.get(f"/jobs/{job_id}")).json()
        assert 0 < seen["step"] < seen["steps"] == 204
        assert (await server.client.delete(f"/jobs/{job_id}")).status_code == 200
        ended = await server.until(job_id, statuses=("failed", "success"))
        assert ended["status"] == "failed"
        assert "cancel" in str(ended).lower()


async def test_a_foreign_job_can_not_be_cancelled(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0)) as server:
        job_id = (await server.client.post("/sd/txt2img", json=SHORT)).json()["id"]
        _, other = await server.services.api_keys.create("other", "user")
        response = await server.stranger.delete(f"/jobs/{job_id}", headers={"X-API-KEY": other})
        assert response.status_code == 404
        await server.until(job_id)


async def test_a_stopped_server_puts_running_jobs_back_and_the_next_one_finishes_them(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0, stop_grace_s=0)) as server:
        job_id = (await server.client.post("/sd/txt2img", json=LONG)).json()["id"]
        await server.drawing(job_id)
    async with running(settings_for(tmp_path)) as server:
        job = await server.services.jobs.fetch(job_id, client_id=None)
        assert job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
        await server.until(job_id)
        assert (await server.services.jobs.fetch(job_id, client_id=None)).attempts == 1, "a graceful stop costs no attempt"


async def test_running_pictures_finish_within_the_grace_time(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0, stop_grace_s=30)) as server:
        job_id = (await server.client.post("/sd/txt2img", json=SHORT)).json()["id"]

        async def claimed() -> bool:
            return (await server.services.jobs.fetch(job_id, client_id=None)).status is not JobStatus.QUEUED

        await eventually(claimed)
    async with running(settings_for(tmp_path)) as server:
        assert (await server.services.jobs.fetch(job_id, client_id=None)).status is JobStatus.SUCCEEDED


async def test_a_held_call_answers_processing_when_the_server_is_about_to_stop(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, stop_grace_s=0)) as server:
        call = asyncio.create_task(server.client.post("/sd/txt2img", json=LONG))
        jobs = await eventually(lambda: server.services.jobs.list_for_client(1, 1))
        await server.drawing(jobs[0].id)
        server.services.begin_stop()
        assert (await call).json()["status"] == "processing"


async def test_a_job_whose_process_died_is_drawn_by_another(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0, max_rows=1)) as server:
        done = await server.drawn_eventually(SHORT)
        async with server.services.sessions.begin() as session:
            died_at = datetime.now(UTC) - timedelta(minutes=5)
            await session.execute(
                update(JobRow)
                .where(JobRow.id == done)
                .values(status=JobStatus.RUNNING, worker="gone:1:x", heartbeat_at=died_at, finished_at=None)
            )
        await server.until(done)
        assert (await server.services.jobs.fetch(done, client_id=None)).attempts == 2


async def test_retention_removes_the_files_and_fetch_says_so(server: Running) -> None:
    answer = await server.drawn(num_inference_steps=2)
    later = Retention(
        sessions=server.services.sessions,
        storage=server.services.storage,
        keep=timedelta(days=7),
        interval_s=3600,
        now=lambda: datetime.now(UTC) + timedelta(days=8),
    )
    assert await later.clean_up() == 1
    assert (await server.stranger.get(answer["output"][0])).status_code == 404
    fetched = (await server.stranger.post("/sd/fetch", json={"id": answer["id"]})).json()
    assert fetched["status"] != "success"
    assert "removed" in str(fetched).lower()


async def test_health_and_readiness_tell_the_reason_when_not(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server:
        assert (await server.stranger.get("/healthz")).json()["status"] == "ok"
        assert (await server.stranger.get("/readyz")).status_code == 200
        server.services.begin_stop()
        ready = await server.stranger.get("/readyz")
        assert ready.status_code == 503
        assert "stopping" in ready.text
    async with running(settings_for(tmp_path, default_model="gone")) as server:
        ready = await server.stranger.get("/readyz")
        assert (ready.status_code, "gone" in ready.text) == (503, True)


async def test_a_server_is_ready_once_what_is_preloaded_is_there_and_an_unknown_model_holds_nothing_back(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, preload=("gone", "demo"))) as server:
        while (ready := await server.stranger.get("/readyz")).status_code != 200:
            (reason,) = ready.json()["reasons"]
            assert reason.startswith("being loaded: ")
            assert (await server.stranger.get("/healthz")).status_code == 200, "it must not be restarted over this"
            await asyncio.sleep(0.02)
        engine = server.services.engine
        assert isinstance(engine, LocalEngine)
        assert await engine.load_s("demo") == 0
        assert (await server.drawn())["status"] == "success"
