"""Pictures in a bucket, over real HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus

import httpx
import pytest

from sdapi.domain.errors import PictureUnavailable
from sdapi.storage import BucketError, BucketProblem, S3Storage, S3Target, StorageError
from tests.s3 import OneAnswer, S3Server

NAME = "sd/0-6f1c2d.png"


def opened(target: S3Target, *, retries: int = 0) -> S3Storage:
    return S3Storage(target, link_lifetime=timedelta(minutes=5), retries=retries)


@pytest.fixture
def storage(bucket: S3Target) -> S3Storage:
    return opened(bucket)


@pytest.fixture
async def dead_url() -> str:
    """An address where nobody listens any more."""
    async with OneAnswer(HTTPStatus.OK) as server:
        return server.url


async def test_what_is_saved_is_loaded_and_found(storage: S3Storage) -> None:
    await storage.save(NAME, b"pixels")

    assert await storage.load(NAME) == b"pixels"
    assert await storage.exists(NAME)
    assert await storage.path(NAME) is None


async def test_saving_again_replaces(storage: S3Storage) -> None:
    await storage.save(NAME, b"first")
    await storage.save(NAME, b"second")
    assert await storage.load(NAME) == b"second"


async def test_what_is_deleted_is_gone_and_deleting_twice_is_fine(storage: S3Storage) -> None:
    await storage.save(NAME, b"pixels")
    await storage.delete(NAME)
    await storage.delete(NAME)

    assert not await storage.exists(NAME)
    assert await storage.link(NAME) is None
    with pytest.raises(PictureUnavailable):
        await storage.load(NAME)


@pytest.mark.parametrize("name", ["", "../secret.png", "sd//a.png", "/etc/passwd", "a?x=1", "a.png#b"])
async def test_a_bad_name_finds_nothing_and_saves_nothing(storage: S3Storage, name: str) -> None:
    assert not await storage.exists(name)
    assert await storage.link(name) is None
    with pytest.raises(PictureUnavailable):
        await storage.load(name)
    with pytest.raises(ValueError, match="not a name"):
        await storage.save(name, b"pixels")
    with pytest.raises(ValueError, match="not a name"):
        await storage.delete(name)


async def test_a_large_picture_goes_there_whole(storage: S3Storage) -> None:
    video = bytes(range(256)) * 2**15
    await storage.save("generations/a.mp4", video)
    assert await storage.load("generations/a.mp4") == video


@pytest.mark.parametrize(("name", "media_type"), [(NAME, "image/png"), ("a.base64", "text/plain; charset=us-ascii")])
async def test_a_link_leads_to_the_picture_with_its_type_and_lets_it_be_kept(storage: S3Storage, name: str, media_type: str) -> None:
    await storage.save(name, b"pixels")
    link = await storage.link(name)

    assert link is not None
    async with httpx.AsyncClient() as client:
        response = await client.get(link)
    assert (response.status_code, response.content) == (200, b"pixels")
    assert response.headers["Content-Type"] == media_type
    assert response.headers["Cache-Control"] == "public, max-age=604800, immutable"


async def test_without_a_public_url_links_are_signed_for_their_lifetime(storage: S3Storage) -> None:
    await storage.save(NAME, b"pixels")
    link = await storage.link(NAME)

    assert link is not None
    query = httpx.URL(link).params
    assert query["X-Amz-Expires"] == "300"
    assert "X-Amz-Signature" in query
    assert "the-secret" not in link
    assert await storage.public_base() is None


async def test_with_a_public_url_links_last(s3_server: S3Server, bucket: S3Target) -> None:
    storage = opened(replace(s3_server.public_url(bucket), directory="shop/front"))
    await storage.save(NAME, b"pixels")

    assert await storage.public_base() == f"{s3_server.url}/{bucket.bucket}/shop/front"
    assert await storage.link(NAME) == f"{await storage.public_base()}/{NAME}"
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{await storage.public_base()}/{NAME}")).content == b"pixels"


async def test_a_directory_keeps_pictures_apart(s3_server: S3Server, bucket: S3Target) -> None:
    here, there = opened(replace(bucket, directory="a/b.c")), opened(replace(bucket, directory="other"))
    await here.save(NAME, b"pixels")

    assert s3_server.keys_in(bucket) == [f"a/b.c/{NAME}"]
    assert await here.load(NAME) == b"pixels"
    assert not await there.exists(NAME)


async def test_a_bucket_that_is_not_there_is_told_at_saving(bucket: S3Target) -> None:
    with pytest.raises(BucketError) as caught:
        await opened(replace(bucket, bucket="nobodys-bucket")).save(NAME, b"pixels")
    assert caught.value.problem is BucketProblem.NO_BUCKET
    assert str(caught.value) == "The bucket for pictures does not exist."


@pytest.mark.usefixtures("s3_checks_keys")
async def test_a_key_nobody_knows_is_told_at_saving(storage: S3Storage) -> None:
    with pytest.raises(BucketError) as caught:
        await storage.save(NAME, b"pixels")
    assert caught.value.problem is BucketProblem.UNKNOWN_KEY


async def test_an_endpoint_that_is_down_is_an_error_without_its_address(bucket: S3Target, dead_url: str) -> None:
    storage = opened(replace(bucket, endpoint_url=dead_url), retries=1)

    for attempt in (storage.save(NAME, b"pixels"), storage.load(NAME), storage.exists(NAME), storage.delete(NAME), storage.link(NAME)):
        with pytest.raises(StorageError) as caught:
            await attempt
        assert str(caught.value) == "The bucket for pictures could not be reached."


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch", BucketProblem.WRONG_SECRET),
        (HTTPStatus.FORBIDDEN, "AccessDenied", BucketProblem.DENIED),
        (HTTPStatus.BAD_REQUEST, "AuthorizationHeaderMalformed", BucketProblem.WRONG_REGION),
        (HTTPStatus.MOVED_PERMANENTLY, "", BucketProblem.WRONG_REGION),
        (HTTPStatus.UNAUTHORIZED, "", BucketProblem.DENIED),
        (HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", BucketProblem.OTHER),
        (HTTPStatus.OK, "", BucketProblem.OTHER),  # some web server: S3 sends an ETag
    ],
)
async def test_what_the_bucket_answers_is_understood(bucket: S3Target, status: HTTPStatus, code: str, expected: BucketProblem) -> None:
    async with OneAnswer(status, f"<Error><Code>{code}</Code></Error>" if code else "") as server:
        with pytest.raises(BucketError) as caught:
            await opened(replace(bucket, endpoint_url=server.url)).save(NAME, b"pixels")
    assert caught.value.problem is expected


async def test_what_may_not_be_listed_counts_as_not_there(bucket: S3Target) -> None:
    async with OneAnswer(HTTPStatus.FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>") as server:
        storage = opened(replace(bucket, endpoint_url=server.url))
        assert not await storage.exists(NAME)
        with pytest.raises(PictureUnavailable):
            await storage.load(NAME)


async def test_a_failing_request_is_repeated_a_bounded_number_of_times(bucket: S3Target) -> None:
    async with OneAnswer(HTTPStatus.SERVICE_UNAVAILABLE) as server:
        with pytest.raises(StorageError):
            await opened(replace(bucket, endpoint_url=server.url), retries=2).save(NAME, b"pixels")
    assert server.requests == [f"PUT /{bucket.bucket}/{NAME} HTTP/1.1"] * 3


async def test_a_session_token_of_the_environment_is_not_sent_with_keys_of_ours(bucket: S3Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody-elses")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    storage = opened(bucket)
    await storage.save(NAME, b"pixels")
    link = await storage.link(NAME)
    assert link is not None
    assert "somebody-elses" not in link


def test_the_secret_is_not_in_what_is_printed(bucket: S3Target) -> None:
    assert "the-secret" not in repr(bucket)
