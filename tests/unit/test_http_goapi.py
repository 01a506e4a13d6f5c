"""The routes of the GoAPI dialect, keys and errors."""

from __future__ import annotations

import logging
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from sdapi.dialects.base import Asked
from sdapi.domain.errors import ModelNotFound, QueueFull
from sdapi.domain.job import Job, JobStatus
from sdapi.jobs.call import Call

from .fakes_http import CLIENT_ID, KEY, LIMITS, FakeJobs, FakeServices, a_job, fake_services, http_client

BODY = {"prompt": "a cat", "width": "512", "seed": None}
HEADERS = {"X-API-KEY": KEY}


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return fake_services(tmp_path)


@pytest.fixture
async def client(services: FakeServices) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(services) as client:
        yield client


@pytest.mark.parametrize("path", ["/sd/txt2img", "/sd/txt2img/"])
async def test_a_picture_is_drawn_with_and_without_a_trailing_slash(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=BODY, headers=HEADERS)

    assert response.status_code == 200
    assert response.json()["status"] == "success"
    assert response.json()["output"] == ["http://test/images/sd/0-one.png"]


async def test_while_a_call_is_held_its_pictures_are_not(client: httpx.AsyncClient, services: FakeServices) -> None:
    seen: list[object] = []

    class Jobs(FakeJobs):
        async def submit(self, asked: Asked, call: Call) -> Job:
            self.sent, self.parsed = call.body, weakref.ref(asked)
            job = await super().submit(asked, call)
            self.asked.clear()
            return job

        async def hold(self, job: Job) -> Job:
            seen.extend((dict(self.sent), self.parsed()))
            return job

    services.jobs = Jobs()
    response = await client.post("/sd/img2img", json=BODY | {"init_image": "AAAA" * 1000}, headers=HEADERS)

    assert response.json()["status"] == "success"
    assert seen == [{}, None]


async def test_img2img_hands_its_picture_on(client: httpx.AsyncClient, services: FakeServices) -> None:
    response = await client.post("/sd/img2img", json=BODY | {"init_image": "http://there/a.png"}, headers=HEADERS)

    assert response.status_code == 200
    assert [(picture.role, picture.source) for picture in services.jobs.asked[0].pictures] == [("init_image", "http://there/a.png")]


@pytest.mark.parametrize(
    "sent",
    [
        {"json": BODY, "headers": {"x-api-key": f"{KEY} "}},
        {"json": BODY, "headers": {"Authorization": f"Bearer {KEY}"}},
        {"json": BODY, "headers": {"Authorization": f"bearer  {KEY}"}},
        {"json": BODY, "headers": {"X-API-KEY": "", "Authorization": f"Bearer {KEY}"}},
        {"json": BODY | {"key": f" {KEY}"}},
        {"data": {"prompt": "a cat", "key": KEY}},
        {"json": BODY | {"key": "wrong"}, "headers": HEADERS},
    ],
)
async def test_the_first_key_present_counts(client: httpx.AsyncClient, sent: dict[str, object]) -> None:
    response = await client.post("/sd/txt2img", **sent)  # type: ignore[arg-type]
    assert response.status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        {"json": BODY},
        {"json": BODY | {"key": 5}},
        {"json": BODY, "headers": {"X-API-KEY": "wrong"}},
        {"json": BODY | {"key": KEY}, "headers": {"X-API-KEY": "wrong"}},
        {"json": BODY, "headers": {"Authorization": f"Basic {KEY}"}},
        {"content": b"{broken", "headers": {"X-API-KEY": "wrong"}},
    ],
)
async def test_without_a_good_key_nothing_happens(client: httpx.AsyncClient, services: FakeServices, sent: dict[str, object]) -> None:
    response = await client.post("/sd/txt2img", **sent)  # type: ignore[arg-type]

    assert response.status_code == 401
    assert response.json()["message"] == response.json()["messege"] == "Invalid Api Key"
    assert services.jobs.asked == []


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"json": {}}, "prompt"),
        ({"json": BODY | {"width": 5000}}, "width"),
        ({"content": b"{broken"}, "body"),
        ({"content": b""}, "body"),
        ({"content": b"[]"}, "body"),
        ({"content": b"x" * 70_000}, "body"),
        ({"content": b"x" * 300_000}, "body"),
    ],
)
async def test_a_bad_request_is_400_with_the_field(client: httpx.AsyncClient, sent: dict[str, object], field: str) -> None:
    response = await client.post("/sd/txt2img", headers=HEADERS, **sent)  # type: ignore[arg-type]

    assert response.status_code == 400
    assert list(response.json()["message"]) == [field]


async def test_an_unknown_model_is_told_what_is_there(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.refusal = ModelNotFound("x", ["demo"])

    response = await client.post("/sd/txt2img", json=BODY, headers=HEADERS)

    assert (response.status_code, response.json()["message"]) == (400, "Model id not found")
    assert "demo" in response.json()["tip"]


async def test_a_full_queue_is_429_with_retry_after(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.refusal = QueueFull(retry_after_s=20)

    response = await client.post("/sd/txt2img", json=BODY, headers=HEADERS)

    assert (response.status_code, response.headers["Retry-After"]) == (429, "20")


async def test_links_have_the_public_url_when_one_is_set(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.limits = replace(LIMITS, public_url="https://pictures.example/api/")

    response = await client.post("/sd/txt2img", json=BODY, headers=HEADERS)

    assert response.json()["output"] == ["https://pictures.example/api/images/sd/0-one.png"]


async def test_a_nonsensical_host_header_does_no_harm(client: httpx.AsyncClient) -> None:
    response = await client.post("/sd/txt2img", json=BODY, headers=HEADERS | {"Host": "[::1"})
    assert response.status_code == 200


@pytest.mark.parametrize("spelt", [28225389, "28225389", 28225389.0])
async def test_fetch_works_without_a_key(client: httpx.AsyncClient, services: FakeServices, spelt: object) -> None:
    services.jobs.add(a_job())

    response = await client.post("/sd/fetch", json={"id": spelt})

    assert response.json() == {"status": "success", "id": 28225389, "output": ["http://here/images/sd/0-one.png"]}


@pytest.mark.parametrize("path", ["/sd/fetch", "/sd/fetch/"])
async def test_fetch_answers_get_too(client: httpx.AsyncClient, services: FakeServices, path: str) -> None:
    services.jobs.add(a_job(status=JobStatus.RUNNING))

    response = await client.get(path, params={"id": "28225389"})

    assert (response.status_code, response.json()["status"], response.json()["output"]) == (200, "processing", [])


@pytest.mark.parametrize("spelt", [5, "xyz", None, 2**31, "6b2f25d9-8b06"])
async def test_all_ids_that_are_not_there_get_the_same_answer(client: httpx.AsyncClient, spelt: object) -> None:
    response = await client.post("/sd/fetch", json={"id": spelt})

    assert response.status_code == 400
    assert response.json() == {"status": "error", "message": "Id not found", "messege": "Id not found"}


async def test_with_a_key_only_its_own_jobs_are_found(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    services.jobs.add(a_job(id=2, client_id=CLIENT_ID + 1))

    own = await client.post("/sd/fetch", json={"id": 1}, headers=HEADERS)
    foreign = await client.post("/sd/fetch", json={"id": 2}, headers=HEADERS)

    assert (own.json()["status"], foreign.json()["message"]) == ("success", "Id not found")


async def test_fetch_with_a_wrong_key_is_401(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    response = await client.post("/sd/fetch", json={"id": 1, "key": "wrong"})
    assert response.status_code == 401


async def test_fetch_can_be_made_to_ask_for_a_key(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.limits = replace(LIMITS, fetch_requires_key=True)
    services.jobs.add(a_job(id=1))

    without = await client.post("/sd/fetch", json={"id": 1})
    with_key = await client.post("/sd/fetch", json={"id": 1}, headers=HEADERS)

    assert (without.status_code, with_key.status_code) == (401, 200)


async def test_scanning_for_ids_is_stopped_for_strangers_and_not_for_clients(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    missed = [(await client.post("/sd/fetch", json={"id": 1000 + i})).status_code for i in range(20)]

    stopped = await client.post("/sd/fetch", json={"id": 1})
    keyed = await client.post("/sd/fetch", json={"id": 1}, headers=HEADERS)

    assert set(missed) == {400}
    assert (stopped.status_code, keyed.status_code) == (429, 200)
    assert int(stopped.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/sd/txt2img", 405), ("POST", "/sd/nothing", 404), ("GET", "/nothing", 404), ("POST", "/healthz", 405)],
)
async def test_what_is_not_there_is_told_as_json(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.json()["status"] == "error"
    assert ("messege" in response.json()) == path.startswith("/sd")
    assert ("Allow" in response.headers) == (status == 405)


async def test_a_crash_is_a_500_with_an_id_that_the_log_has_and_no_details(
    client: httpx.AsyncClient, services: FakeServices, caplog: pytest.LogCaptureFixture
) -> None:
    services.jobs.refusal = RuntimeError("a secret path")

    with caplog.at_level(logging.ERROR, "sdapi.http"):
        response = await client.post("/sd/txt2img", json=BODY, headers=HEADERS)

    assert (response.status_code, response.json()["messege"]) == (500, "Internal server error")
    assert "secret" not in response.text
    assert [vars(record)["request_id"] for record in caplog.records] == [response.json()["request_id"]]


async def test_the_documentation_page_knows_the_fields(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    schema = paths["/sd/img2img"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"prompt", "init_image", "num_inference_steps"} <= set(schema["properties"])
    assert schema["required"] == ["prompt", "init_image"]
