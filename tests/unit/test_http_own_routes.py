"""Pictures, jobs and health over HTTP, and the limiter of misses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from sdapi.domain.errors import JobNotFound, QueueFull
from sdapi.domain.job import Job, JobStatus
from sdapi.http.miss_limiter import MissLimiter

from .fakes_http import CLIENT_ID, KEY, FakeServices, a_job, fake_services, http_client

HEADERS = {"X-API-KEY": KEY}
URL = "/images/sd/0-one.png"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return fake_services(tmp_path)


@pytest.fixture
async def client(services: FakeServices) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(services) as client:
        yield client


@pytest.fixture
async def stored(services: FakeServices) -> bytes:
    await services.storage.open()
    await services.storage.save("sd/0-one.png", PNG)
    return PNG


async def test_a_stored_picture_is_served_to_be_kept(client: httpx.AsyncClient, stored: bytes) -> None:
    response = await client.get(URL)

    assert (response.status_code, response.content) == (200, stored)
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Cache-Control"] == "public, max-age=604800, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_head_tells_the_size_only(client: httpx.AsyncClient, stored: bytes) -> None:
    response = await client.head(URL)
    assert (response.status_code, response.content, response.headers["Content-Length"]) == (200, b"", str(len(stored)))


async def test_a_part_can_be_asked_for(client: httpx.AsyncClient, stored: bytes) -> None:
    response = await client.get(URL, headers={"Range": "bytes=1-3"})
    assert (response.status_code, response.content) == (206, stored[1:4])


@pytest.mark.usefixtures("stored")
async def test_who_has_the_picture_is_told_so(client: httpx.AsyncClient) -> None:
    first = await client.get(URL)
    etag, modified = first.headers["ETag"], first.headers["Last-Modified"]

    for known in ({"If-None-Match": f'"other", W/{etag}'}, {"If-None-Match": "*"}, {"If-Modified-Since": modified}):
        response = await client.get(URL, headers=known)
        assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", etag)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    "known", [{"If-None-Match": '"other"'}, {"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, {"If-Modified-Since": "yesterday"}]
)
async def test_who_has_another_picture_gets_this_one(client: httpx.AsyncClient, known: dict[str, str]) -> None:
    assert (await client.get(URL, headers=known)).status_code == 200


@pytest.mark.parametrize("name", ["sd/none.png", "..%2f..%2fsecret", "%00", "a" * 3000, "", "sd/%F0%9F%90%88.png"])
async def test_an_unknown_picture_is_a_404_that_nobody_caches(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/images/{name}")

    assert response.status_code == 404
    assert response.json() == {"status": "error", "message": "Image not found"}
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers


async def test_a_promised_picture_is_served_once_it_is_drawn(client: httpx.AsyncClient, services: FakeServices, tmp_path: Path) -> None:
    def draw(job: Job) -> Job:
        (tmp_path / "sd").mkdir()
        (tmp_path / "sd" / "0-one.png").write_bytes(PNG)
        return replace(job, status=JobStatus.SUCCEEDED)

    services.jobs.add(a_job(status=JobStatus.QUEUED))
    services.jobs.when_waited = draw

    response = await client.get(URL)

    assert (response.status_code, response.content) == (200, PNG)
    assert services.jobs.waited_s == [services.limits.sync_wait_s]


async def test_a_promised_picture_that_takes_longer_is_404_with_retry_after(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(status=JobStatus.RUNNING))
    response = await client.get(URL)
    assert (response.status_code, response.headers["Retry-After"]) == (404, "13")


async def test_a_picture_that_will_never_come_is_404_without_retry_after(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(status=JobStatus.FAILED))
    response = await client.get(URL)
    assert (response.status_code, "Retry-After" in response.headers) == (404, False)


async def test_head_does_not_wait(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(status=JobStatus.RUNNING))
    assert (await client.head(URL)).status_code == 404
    assert services.jobs.waited_s == []


async def test_a_job_shows_how_far_it_is(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(status=JobStatus.RUNNING, finished_at=None))

    shown = (await client.get("/jobs/28225389", headers=HEADERS)).json()

    assert (shown["state"], shown["step"], shown["steps"], shown["eta"], shown["position"]) == ("running", 4, 30, 12.35, 0)
    assert (shown["output"], shown["finished_at"]) == ([], None)


async def test_a_waiting_job_shows_its_position(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1, status=JobStatus.RUNNING))
    services.jobs.add(a_job(id=2, status=JobStatus.QUEUED))
    assert (await client.get("/jobs/2", headers=HEADERS)).json()["position"] == 1


async def test_the_list_has_ones_own_jobs_only(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    services.jobs.add(a_job(id=2, client_id=CLIENT_ID + 1))

    listed = (await client.get("/jobs", headers=HEADERS)).json()["jobs"]

    assert [(job["id"], job["state"], job["output"]) for job in listed] == [(1, "succeeded", ["http://here/images/sd/0-one.png"])]


@pytest.mark.parametrize("limit", ["0", "201", "many"])
async def test_a_bad_limit_is_400(client: httpx.AsyncClient, limit: str) -> None:
    response = await client.get("/jobs", params={"limit": limit}, headers=HEADERS)
    assert (response.status_code, list(response.json()["message"])) == (400, ["limit"])


async def test_delete_cancels(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1, status=JobStatus.QUEUED))
    assert (await client.delete("/jobs/1", headers=HEADERS)).json()["state"] == "cancelled"


@pytest.mark.parametrize("path", ["/jobs/2", "/jobs/5", "/jobs/xyz", "/jobs/-1", "/jobs/99999999999"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_foreign_and_unknown_jobs_are_404(client: httpx.AsyncClient, services: FakeServices, method: str, path: str) -> None:
    services.jobs.add(a_job(id=2, client_id=CLIENT_ID + 1))
    response = await client.request(method, path, headers=HEADERS)
    assert (response.status_code, response.json()["message"]) == (404, "Id not found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs"), ("GET", "/jobs/1"), ("DELETE", "/jobs/1")])
async def test_jobs_need_a_key(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert (await client.request(method, path)).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz/", "/readyz/"])
async def test_health_is_ok_or_503_with_the_reason(client: httpx.AsyncClient, services: FakeServices, path: str) -> None:
    well = await client.get(path)
    services.trouble = "the dispatcher has stopped"
    unwell = await client.get(path)

    assert (well.status_code, well.json()) == (200, {"status": "ok"})
    assert (unwell.status_code, unwell.json()["message"]) == (503, "the dispatcher has stopped")


def miss(limiter: MissLimiter, address: str) -> None:
    with pytest.raises(JobNotFound), limiter.guarding(address):
        raise JobNotFound


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_misses_come_back_with_time() -> None:
    clock = Clock()
    limiter = MissLimiter(misses_per_minute=2, now=clock)
    miss(limiter, "10.0.0.1")
    miss(limiter, "10.0.0.1")
    with pytest.raises(QueueFull) as refusal, limiter.guarding("10.0.0.1"):
        pass
    assert refusal.value.retry_after_s == 30

    clock.now += 30
    miss(limiter, "10.0.0.1")


def test_hits_cost_nothing_and_addresses_are_counted_apart() -> None:
    limiter = MissLimiter(misses_per_minute=1, now=Clock())
    for _ in range(10):
        with limiter.guarding("10.0.0.1"):
            pass
    miss(limiter, "10.0.0.1")
    miss(limiter, "10.0.0.2")


def test_addresses_of_one_ipv6_network_are_counted_together() -> None:
    limiter = MissLimiter(misses_per_minute=1, now=Clock())
    miss(limiter, "2001:db8::1")
    with pytest.raises(QueueFull), limiter.guarding("2001:db8::ffff:2"):
        pass


def test_the_limiter_forgets_the_addresses_seen_longest_ago() -> None:
    limiter = MissLimiter(misses_per_minute=1, max_addresses=2, now=Clock())
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        miss(limiter, address)

    miss(limiter, "10.0.0.1")
    with pytest.raises(QueueFull), limiter.guarding("10.0.0.3"):
        pass
