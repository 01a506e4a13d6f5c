"""One who asks for little is not held up by one who asks for much."""

from __future__ import annotations

from pathlib import Path

from sdapi.domain.job import JobStatus

from .running import eventually, running, settings_for

BODY = {"prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 10}


async def test_a_lone_job_ends_before_most_of_a_busy_clients(tmp_path: Path) -> None:
    """Even though the device is full of these when it comes."""
    async with running(settings_for(tmp_path, sync_wait_s=0, max_rows=4, stop_grace_s=0)) as server:
        _, key = await server.services.api_keys.create("quiet", "user")
        await server.drawn_eventually(BODY)
        hot = [(await server.client.post("/sd/txt2img", json={**BODY, "seed": seed})).json()["id"] for seed in range(24)]
        quiet = (await server.client.post("/sd/txt2img", json=BODY, headers={"X-API-KEY": key})).json()["id"]
        ended_before = sum([(await server.services.jobs.fetch(job_id, client_id=None)).status.is_final for job_id in hot])

        async def ended() -> bool:
            return (await server.services.jobs.fetch(quiet, client_id=None)).status is JobStatus.SUCCEEDED

        await eventually(ended)
        done = [job for job in [await server.services.jobs.fetch(job_id, client_id=None) for job_id in hot] if job.finished_at is not None]
        quiet_job = await server.services.jobs.fetch(quiet, client_id=None)
        assert quiet_job.finished_at is not None
        meanwhile = sum(job.finished_at <= quiet_job.finished_at for job in done if job.finished_at is not None) - ended_before
        # Eight of the busy client's are in flight, four of which share a forward: if they went first, these would be eight.
        assert meanwhile <= 3
