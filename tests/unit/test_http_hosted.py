"""The routes of v3 to v6 and enterprise: keys in the body, look-ups by path and by body, statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdapi.dialects import enterprise, v3, v6
from sdapi.dialects.base import Dialect
from sdapi.domain.errors import QueueFull
from sdapi.domain.job import JobStatus

from .fakes_http import CLIENT_ID, ENTERPRISE_KEY, KEY, LIMITS, FakeServices, a_job, fake_services, http_client
from .hosted_jobs import golden

KEYS: dict[str, str] = {"v3": KEY, "v6": KEY, "enterprise": ENTERPRISE_KEY}
DIALECTS: list[Dialect] = [v3, v6, enterprise]
# Every path is asked of one app: building it takes longer than all the calls.
EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.NAME)
TEXT2IMG = ["/api/v3/text2img", "/api/v6/realtime/text2img", "/api/v1/enterprise/text2img"]


def look_ups(dialect: Dialect, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Every path of the dialect that looks a job up, and the fields it needs."""
    key = {"key": KEYS[dialect.NAME]}
    return [(row.path.replace("{id}", job_id), key if "{id}" in row.path else key | {"request_id": job_id}) for row in dialect.FETCH_PATHS]


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return fake_services(tmp_path)


@pytest.fixture
async def client(services: FakeServices) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(services) as client:
        yield client


@EVERY_DIALECT
async def test_every_documented_request_makes_a_job(client: httpx.AsyncClient, services: FakeServices, dialect: Dialect) -> None:
    for endpoint in dialect.ENDPOINTS:
        sample = golden(dialect.NAME, f"{endpoint.sample}_request") | {"key": KEYS[dialect.NAME]}
        for path in (endpoint.path, endpoint.path + "/"):
            response = await client.post(path, json=sample)
            assert (path, response.status_code, response.json()["status"]) == (path, 200, "success")

    assert [asked.endpoint for asked in services.jobs.asked] == [endpoint.name for endpoint in dialect.ENDPOINTS for _ in range(2)]


async def test_a_form_in_which_everything_is_a_string_draws(client: httpx.AsyncClient, services: FakeServices) -> None:
    form = {"key": KEY, "prompt": "a cat", "width": "256", "guidance_scale": "7.5", "safety_checker": "false", "seed": "", "samples": "1"}

    response = await client.post("/api/v3/text2img", data=form)

    assert response.json()["status"] == "success"
    assert services.jobs.asked[0].width == 256


@EVERY_DIALECT
async def test_every_look_up_answers_post_and_get(client: httpx.AsyncClient, services: FakeServices, dialect: Dialect) -> None:
    services.jobs.add(a_job(dialect=dialect.NAME))
    for path, fields in look_ups(dialect, "28225389"):
        posted = await client.post(path, json=fields | {"prompt": "clients send their first request again"})
        slashed = await client.post(path + "/", json=fields)
        got = await client.get(path, params=fields)

        assert posted.json() == slashed.json() == got.json()
        assert (path, posted.json()["status"], posted.json()["id"]) == (path, "success", 28225389)


@EVERY_DIALECT
async def test_ids_that_are_not_there_get_one_and_the_same_answer(client: httpx.AsyncClient, dialect: Dialect) -> None:
    for odd in ("5", "xyz", "2147483648", "6b2f25d9-8b06-4853-a99e-379b06bb156e"):
        for path, fields in look_ups(dialect, odd):
            response = await client.post(path, json=fields)

            assert response.json() == {"status": "error", "message": "Id not found", "messege": "Id not found"}
            assert (path, response.status_code) == (path, 200 if dialect.ERRORS_ARE_200 else 404)


@EVERY_DIALECT
async def test_a_look_up_needs_a_key_and_finds_only_its_own(client: httpx.AsyncClient, services: FakeServices, dialect: Dialect) -> None:
    services.jobs.add(a_job(id=5, client_id=CLIENT_ID + 1))
    for path, fields in look_ups(dialect, "5"):
        keyless = await client.post(path, json=fields | {"key": ""})
        foreign = await client.post(path, json=fields)

        told = (path, keyless.json()["message"], foreign.json()["message"])
        assert told == (path, "Invalid Api Key", "Id not found")


async def test_fetch_result_is_where_a_waiting_job_is_found(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.outcome = JobStatus.QUEUED
    body = {"key": KEY, "prompt": "a cat", "model_id": "demo"}
    told = (await client.post("/api/v4/dreambooth", json=body)).json()

    fetched = await client.post(told["fetch_result"], json=body)

    assert told["status"] == "processing"
    assert (fetched.status_code, fetched.json()["status"], fetched.json()["id"]) == (200, "processing", told["id"])


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"prompt": "a cat"}, "Invalid Api Key"),
        ({"prompt": "a cat", "key": "wrong"}, "Invalid Api Key"),
        ({}, {"prompt": ["The prompt field is required."]}),
    ],
)
async def test_v3_says_200_to_errors(client: httpx.AsyncClient, sent: dict[str, Any], message: object) -> None:
    headers = {} if "prompt" in sent else {"X-API-KEY": KEY}
    response = await client.post("/api/v3/text2img", json=sent, headers=headers)

    assert response.status_code == 200
    assert (response.json()["status"], response.json()["message"], response.json()["messege"]) == ("error", message, message)


@pytest.mark.parametrize(("path", "key"), zip(TEXT2IMG, KEYS.values(), strict=True))
async def test_errors_have_their_status_where_the_operator_wants_it(
    client: httpx.AsyncClient, services: FakeServices, path: str, key: str
) -> None:
    services.limits = replace(LIMITS, standard_error_status=True)
    services.jobs.refusal = QueueFull(retry_after_s=20)

    keyless = await client.post(path, json={"prompt": "a"})
    bad = await client.post(path, json={"key": key, "model_id": "demo"})
    full = await client.post(path, json={"key": key, "model_id": "demo", "prompt": "a"})

    assert (keyless.status_code, bad.status_code, full.status_code, full.headers["Retry-After"]) == (401, 400, 429, "20")


async def test_v6_always_has_its_statuses(client: httpx.AsyncClient) -> None:
    keyless = await client.post("/api/v6/images/text2img", json={"prompt": "a"})
    no_model = await client.post("/api/v6/images/text2img", json={"prompt": "a", "key": KEY})

    assert (keyless.status_code, no_model.status_code) == (401, 400)
    assert no_model.json()["message"] == "Model id not found"


async def test_enterprise_is_closed_to_ordinary_keys(client: httpx.AsyncClient, services: FakeServices) -> None:
    paths = [endpoint.path for endpoint in enterprise.ENDPOINTS] + [row.path for row in enterprise.FETCH_PATHS]
    for path in paths:
        response = await client.post(path.replace("{id}", "5"), json={"key": KEY, "prompt": "a", "model_id": "demo", "request_id": 5})

        assert (path, response.status_code, response.json()["message"]) == (path, 200, "Invalid Api Key")
        assert "enterprise key" in response.json()["tip"]
    assert services.jobs.asked == []


@pytest.mark.parametrize("path", ["/api/v3/nothing", "/api/v5/dreambooth", "/api/v6/images", "/api/v1/enterprise/nothing"])
async def test_what_is_not_there_is_404_in_the_dialects_words(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={})

    assert response.status_code == 404
    assert response.json()["messege"] == response.json()["message"]


async def test_the_documentation_page_shows_fields_and_samples(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    shown = paths["/api/v4/dreambooth"]["post"]
    content = shown["requestBody"]["content"]["application/json"]
    assert {"prompt", "scheduler", "clip_skip", "track_id"} <= set(content["schema"]["properties"])
    sample = golden("v3", "v4_dreambooth_request")
    assert content["example"] == {name: value for name, value in sample.items() if value is not None}, "FastAPI leaves nulls out"
    assert shown["responses"]["200"]["content"]["application/json"]["example"]["output"] == golden("v3", "v4_dreambooth_success")["output"]
