"""Bad input gets a clear error in the dialect's own shape, is never a 500, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from sdapi.db.tables import JobRow

from .running import Running, running, settings_for


async def nothing_changed(server: Running) -> bool:
    async with server.services.sessions() as session:
        jobs = await session.scalar(select(func.count()).select_from(JobRow))
    images = server.settings.data_dir / "images"
    return jobs == 0 and not [path for path in images.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"prompt": None}, "prompt", "required"),
        ({"prompt": "  "}, "prompt", "required"),
        ({"width": 5000}, "width", "64"),
        ({"width": "abc"}, "width", "number"),
        ({"height": 8}, "height", "1024"),
        ({"guidance_scale": 99}, "guidance_scale", "20"),
        ({"num_inference_steps": 0}, "num_inference_steps", "1"),
        ({"seed": "many"}, "seed", "number"),
        ({"seed": 2**32}, "seed", "4294967295"),
        ({"lora_model": "moxin"}, "lora_model", "moxin"),
    ],
)
async def test_a_bad_field_is_named_with_what_is_allowed(server: Running, change: dict[str, object], field: str, words: str) -> None:
    response = await server.client.post("/sd/txt2img", json={"prompt": "a red circle", **change})
    body = response.json()
    assert response.status_code == 400
    assert body["status"] == "error"
    assert words in " ".join(body["message"][field])
    assert body["messege"] == body["message"]
    assert await nothing_changed(server)


@pytest.mark.parametrize(
    ("init_image", "words"),
    [
        (None, "required"),
        ("http://127.0.0.1:9/nothing.png", "Unable to fetch image"),
        ("data:text/plain;base64,aGVsbG8gd29ybGQ=", "picture"),
        ("aGVsbG8gd29ybGQ=", "picture"),
        ("ftp://example.com/x.png", ""),
        ("http://sdapi.test/images/sd/0-nothing.png", ""),
    ],
)
async def test_a_bad_init_image_is_refused_before_anything_is_recorded(server: Running, init_image: str | None, words: str) -> None:
    response = await server.client.post("/sd/img2img", json={"prompt": "a red circle", "init_image": init_image})
    assert response.status_code == 400
    assert words in " ".join(response.json()["message"]["init_image"])
    assert await nothing_changed(server)


async def test_private_addresses_are_out_of_bounds_by_default(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, allow_private_urls=False)) as server:
        response = await server.client.post("/sd/img2img", json={"prompt": "x", "init_image": "http://169.254.169.254/latest/meta-data"})
        assert response.status_code == 400
        assert "init_image" in response.json()["message"]
        assert await nothing_changed(server)


async def test_an_unknown_model_is_named_with_the_models_there_are(server: Running) -> None:
    response = await server.client.post("/sd/txt2img", json={"prompt": "a cat", "model_id": "anything-v5"})
    assert response.status_code == 400
    assert response.json()["message"] == "Model id not found"
    assert "demo" in response.json()["tip"]
    assert await nothing_changed(server)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'"prompt"', b"\xff\xfe", b"{" * 5000])
async def test_a_body_that_is_no_object_is_a_clear_error(server: Running, content: bytes) -> None:
    response = await server.client.post("/sd/txt2img", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["status"] == "error"
    assert await nothing_changed(server)


async def test_a_body_of_20_mb_is_refused(server: Running) -> None:
    response = await server.client.post("/sd/txt2img", content=b'{"prompt": "' + b"x" * (20 * 2**20) + b'"}')
    assert response.status_code == 400
    assert "MB" in str(response.json()["message"])
    assert await nothing_changed(server)


@pytest.mark.parametrize("job_id", ["xyz", None, "", 12345, -1, 0, 2**31, 1.5, [], {"a": 1}, "1e5", True])
async def test_fetch_of_an_id_that_is_not_there_has_one_answer(server: Running, job_id: object) -> None:
    response = await server.client.post("/sd/fetch", json={"id": job_id})
    assert (response.status_code, response.json()["status"], response.json()["message"]) == (400, "error", "Id not found")


async def test_no_key_and_a_wrong_key_are_401(server: Running) -> None:
    body = {"prompt": "a red circle"}
    answers = [
        await server.stranger.post("/sd/txt2img", json=body),
        await server.stranger.post("/sd/txt2img", json=body, headers={"X-API-KEY": "sd_wrong"}),
        await server.stranger.post("/sd/txt2img", json=body, headers={"Authorization": "Bearer sd_wrong"}),
        await server.stranger.post("/sd/txt2img", json={**body, "key": "sd_wrong"}),
    ]
    assert [(a.status_code, a.json()["message"]) for a in answers] == [(401, "Invalid Api Key")] * 4
    assert await nothing_changed(server)


async def test_the_key_may_come_as_header_bearer_or_body_field(server: Running) -> None:
    key = server.client.headers["X-API-KEY"]
    body: dict[str, Any] = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2}
    answers = [
        await server.stranger.post("/sd/txt2img", json=body, headers={"x-api-key": f"{key} "}),
        await server.stranger.post("/sd/txt2img", json=body, headers={"Authorization": f"Bearer {key}"}),
        await server.stranger.post("/sd/txt2img", json={**body, "key": key}),
    ]
    assert [a.json()["status"] for a in answers] == ["success"] * 3


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, max_queued_jobs=1, max_rows=1, sync_wait_s=0, stop_grace_s=0)) as server:
        body = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 50}
        answers = [await server.client.post("/sd/txt2img", json=body) for _ in range(6)]
        refused = [a for a in answers if a.status_code == 429]
        assert refused
        assert refused[0].json()["message"] == "Rate limit exceeded"
        assert int(refused[0].headers["Retry-After"]) >= 1


@pytest.mark.parametrize("name", ["../sdapi.sqlite3", "..%2fsdapi.sqlite3", "sd/../../sdapi.sqlite3", "/etc/passwd", "%00", "sd"])
async def test_no_name_of_a_picture_leads_out_of_the_storage(server: Running, name: str) -> None:
    assert (await server.client.get(f"/images/{name}")).status_code == 404


async def test_an_unknown_path_and_a_wrong_method_answer_json(server: Running) -> None:
    missing, wrong = await server.client.post("/sd/txt2imgs", json={}), await server.client.get("/sd/txt2img")
    assert (missing.status_code, missing.json()["status"]) == (404, "error")
    assert (wrong.status_code, wrong.json()["status"]) == (405, "error")
