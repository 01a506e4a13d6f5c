"""Pictures, jobs and health over HTTP, and the limiter of misses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from sdapi.domain.errors import JobNotFound, QueueFull
from sdapi.domain.job import Job, JobStatus
from sdapi.http.job_events import StreamLimit
from sdapi.http.miss_limiter import MissLimiter
from sdapi.storage import LocalStorage

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


@pytest.mark.parametrize("name", ["sd/none.png", "..%2f..%2fsecret", "%00", "a" * 3000, "sd/%F0%9F%90%88.png"])
async def test_an_unknown_picture_is_a_404_that_nobody_caches(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/images/{name}")

    assert response.status_code == 404
    assert response.json() == {"status": "error", "message": "Image not found"}
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers


class InBucket(LocalStorage):
    """Storage that has links instead of files."""

    def __init__(self, folder: Path, *names: str) -> None:
        super().__init__(folder)
        self.names = set(names)

    async def link(self, name: str) -> str | None:
        return f"https://bucket.example/{name}?X-Amz-Signature=a%2Fb" if name in self.names else None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_asks_for_a_picture_in_a_bucket_is_sent_there(services: FakeServices, tmp_path: Path, method: str) -> None:
    services.storage = InBucket(tmp_path, "sd/0-one.png")
    async with http_client(services) as client:
        response = await client.request(method, URL)

    assert (response.status_code, response.content) == (302, b"")
    assert response.headers["Location"] == "https://bucket.example/sd/0-one.png?X-Amz-Signature=a%2Fb"
    assert response.headers["Cache-Control"] == "no-store"


async def test_who_waits_for_a_picture_is_sent_to_the_bucket_it_went_to(services: FakeServices, tmp_path: Path) -> None:
    services.storage = storage = InBucket(tmp_path)

    def draw(job: Job) -> Job:
        storage.names.add("sd/0-one.png")
        return replace(job, status=JobStatus.SUCCEEDED)

    services.jobs.add(a_job(status=JobStatus.QUEUED))
    services.jobs.when_waited = draw
    async with http_client(services) as client:
        assert (await client.get(URL)).status_code == 302
        assert (await client.get("/images/sd/none.png")).status_code == 404


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


async def test_a_running_job_says_where_its_preview_is(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1, status=JobStatus.RUNNING))
    services.jobs.add(a_job(id=2, status=JobStatus.QUEUED))
    services.jobs.add(a_job(id=3))
    shown = [(await client.get(f"/jobs/{job_id}", headers=HEADERS)).json()["preview"] for job_id in (1, 2, 3)]
    assert shown == ["http://here/jobs/1/preview", None, None]


async def test_a_preview_is_a_picture_that_nobody_keeps(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1, status=JobStatus.RUNNING))
    services.previews.jpegs[1] = b"a small picture"

    response = await client.get("/jobs/1/preview", params={"key": KEY})

    assert (response.status_code, response.content, response.headers["Content-Type"]) == (200, b"a small picture", "image/jpeg")
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
async def test_no_preview_yet_is_a_404_that_says_when_to_ask_again(
    client: httpx.AsyncClient, services: FakeServices, status: JobStatus
) -> None:
    services.jobs.add(a_job(id=1, status=status))
    response = await client.get("/jobs/1/preview", headers=HEADERS)
    assert (response.status_code, response.json()) == (404, {"status": "error", "message": "No preview yet"})
    assert (response.headers["Retry-After"], response.headers["Cache-Control"]) == ("1", "no-store")


async def test_the_preview_of_a_finished_job_leads_to_its_picture(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    response = await client.get("/jobs/1/preview", headers=HEADERS)
    assert (response.status_code, response.headers["Location"]) == (302, "http://here/images/sd/0-one.png")


@pytest.mark.parametrize("change", [{"status": JobStatus.FAILED}, {"status": JobStatus.CANCELLED}, {"files_removed": True}])
async def test_a_job_without_pictures_has_no_preview_ever(
    client: httpx.AsyncClient, services: FakeServices, change: dict[str, object]
) -> None:
    services.jobs.add(a_job(id=1, **change))
    response = await client.get("/jobs/1/preview", headers=HEADERS)
    assert (response.status_code, "Retry-After" in response.headers) == (404, False)


async def test_the_events_of_a_finished_job_are_its_look_and_the_end(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))

    response = await client.get("/jobs/1/events", headers=HEADERS)
    look = (await client.get("/jobs/1", headers=HEADERS)).json()

    assert response.headers["Content-Type"].partition(";")[0] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.text == f"event: state\ndata: {json.dumps(look)}\nid: succeeded\nretry: 3000\n\n"


async def test_who_comes_back_after_the_last_event_is_told_to_stay_away(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    again = await client.get("/jobs/1/events", headers={**HEADERS, "Last-Event-ID": "succeeded"})
    earlier = await client.get("/jobs/1/events", headers={**HEADERS, "Last-Event-ID": "running.4"})
    assert (again.status_code, again.content, earlier.status_code) == (204, b"", 200)


async def test_a_stream_tells_a_change_that_only_the_table_knows(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1, status=JobStatus.QUEUED))
    services.jobs.after_looks = {3: a_job(id=1)}
    response = await client.get("/jobs/1/events", headers=HEADERS)
    assert [line for line in response.text.splitlines() if line.startswith("id")] == ["id: queued", "id: succeeded"]


async def test_a_stream_ends_when_the_server_stops(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1, status=JobStatus.RUNNING))
    services.jobs.board.closing.set()
    response = await client.get("/jobs/1/events", headers=HEADERS)
    assert [line for line in response.text.splitlines() if line.startswith("id")] == ["id: running"]
    assert services.jobs.board.watched() == 0


async def test_the_key_may_come_in_the_query_where_headers_can_not_be_set(client: httpx.AsyncClient, services: FakeServices) -> None:
    services.jobs.add(a_job(id=1))
    assert (await client.get("/jobs/1/events", params={"key": KEY})).status_code == 200
    assert (await client.get("/jobs/1/events", params={"key": "sd_wrong"})).status_code == 401


def test_a_key_holds_only_so_many_streams() -> None:
    limit = StreamLimit(most=2)
    with limit.held(1), limit.held(1):
        with pytest.raises(QueueFull), limit.held(1):
            pass
        with limit.held(2):
            pass
    with limit.held(1):
        pass


@pytest.mark.parametrize("path", ["/jobs/2/preview", "/jobs/2/events", "/jobs/5/preview", "/jobs/5/events", "/jobs/xyz/events"])
async def test_what_others_draw_can_not_be_watched(client: httpx.AsyncClient, services: FakeServices, path: str) -> None:
    services.jobs.add(a_job(id=2, client_id=CLIENT_ID + 1))
    assert (await client.get(path, headers=HEADERS)).status_code == 404
    assert (await client.get(path)).status_code == 401


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
