"""The bucket of update_s3: kept sealed, checked before use, guarded, and switched to and from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import httpcore
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import StorageTargetRow
from sdapi.domain.errors import InvalidRequest, NotAvailable, PictureUnavailable
from sdapi.server_secret import ServerSecret
from sdapi.storage import (
    ClientBuckets,
    LocalStorage,
    S3Storage,
    S3Target,
    StorageError,
    StorageTargets,
    SwitchingStorage,
)
from tests.s3 import OneAnswer, S3Server

Sessions = async_sessionmaker[AsyncSession]

NAME = "sd/0-6f1c2d.png"
LINK_LIFETIME = timedelta(minutes=5)
KEEP_FORMER = timedelta(days=7)
PUBLIC = "93.184.216.34"
SECRET = ServerSecret(b"m" * 32)


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def buckets() -> AsyncIterator[ClientBuckets]:
    buckets = ClientBuckets(allow_private=True, link_lifetime=LINK_LIFETIME)
    yield buckets
    await buckets.aclose()


Opened = Callable[..., StorageTargets]


@pytest.fixture
def opened(sessions: Sessions, buckets: ClientBuckets, clock: Clock) -> Opened:
    """Each call is another process."""

    def open_targets(secret: ServerSecret = SECRET) -> StorageTargets:
        return StorageTargets(sessions=sessions, sealer=secret.sealer("test"), buckets=buckets, keep_former=KEEP_FORMER, now=clock)

    return open_targets


@pytest.fixture
def targets(opened: Opened) -> StorageTargets:
    return opened()


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "images")


@pytest.fixture
def storage(local: LocalStorage, targets: StorageTargets) -> SwitchingStorage:
    return SwitchingStorage(local=local, configured=None, targets=targets)


def in_bucket(target: S3Target) -> S3Storage:
    return S3Storage(target, link_lifetime=LINK_LIFETIME, retries=0)


async def test_what_is_set_is_got_by_every_process_and_after_a_reset_nothing(opened: Opened, bucket: S3Target) -> None:
    target = replace(bucket, directory="a/b", public_url="https://cdn.example.com", region_name="eu-west-1")
    assert await opened().get() is None
    await opened().set(target)
    assert await opened().get() == target

    assert await opened().reset()
    assert await opened().get() is None
    assert not await opened().reset()


async def test_credentials_are_not_readable_in_the_database(targets: StorageTargets, sessions: Sessions, bucket: S3Target) -> None:
    await targets.set(bucket)

    async with sessions() as session:
        row = (await session.scalars(select(StorageTargetRow))).one()
    assert bucket.bucket in repr(vars(row))
    assert "the-key" not in repr(vars(row))
    assert "the-secret" not in repr(vars(row))


async def test_two_processes_may_set_at_once(opened: Opened, bucket: S3Target) -> None:
    others = [replace(bucket, bucket=f"bucket-{number}") for number in range(6)]
    await asyncio.gather(*(opened().set(other) for other in others))

    known = await opened().known()
    assert known.current in others
    assert known.current not in known.former


async def test_another_secret_key_is_told_and_saves_nothing_elsewhere(
    opened: Opened, local: LocalStorage, bucket: S3Target, sessions: Sessions
) -> None:
    await opened().set(bucket)
    changed = opened(ServerSecret(b"n" * 32))
    storage = SwitchingStorage(local=local, configured=None, targets=changed)

    with pytest.raises(NotAvailable, match="secret key has changed"):
        await changed.get()
    with pytest.raises(StorageError, match="secret key has changed"):
        await storage.save(NAME, b"pixels")
    await local.save("inputs/old.png", b"old")
    assert await storage.load("inputs/old.png") == b"old"
    assert not await storage.exists(NAME)
    await changed.set(bucket)
    await storage.save(NAME, b"pixels")


async def test_a_good_bucket_passes_the_check_and_keeps_nothing_of_it(
    targets: StorageTargets, s3_server: S3Server, bucket: S3Target
) -> None:
    await targets.check(replace(bucket, directory="shop"))
    assert s3_server.keys_in(bucket) == []


async def test_a_bucket_that_is_not_there_fails_the_check(targets: StorageTargets, bucket: S3Target) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await targets.check(replace(bucket, bucket="nobodys-bucket"))
    assert caught.value.problems == {"endpoint_url": ["Writing a test file to the bucket failed: it does not exist."]}


@pytest.mark.usefixtures("s3_checks_keys")
async def test_wrong_credentials_fail_the_check(targets: StorageTargets, bucket: S3Target) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await targets.check(bucket)
    assert caught.value.problems == {"aws_access_key_id": ["Writing a test file to the bucket failed: it does not know the access key."]}


async def test_an_endpoint_that_is_down_fails_the_check(targets: StorageTargets, bucket: S3Target) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await targets.check(replace(bucket, endpoint_url="http://127.0.0.1:9"))
    assert caught.value.problems == {"endpoint_url": ["Writing a test file to the bucket failed: it could not be reached."]}


class ToLoopback(httpcore.AnyIOBackend):
    """Public addresses lead to loopback, as if the server of the test lived there; loopback itself leads nowhere."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def connect_tcp(self, host: str, port: int, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        return await super().connect_tcp("127.0.0.1", port)


class Guarded(ClientBuckets):
    """Private addresses are forbidden. Names lead to `addresses`, one after the other, and numbers to themselves."""

    def __init__(self, *addresses: str) -> None:
        self._answers = list(addresses)
        self.connector = ToLoopback()
        super().__init__(allow_private=False, link_lifetime=LINK_LIFETIME, resolve=self._look_up, connector=self.connector)

    async def _look_up(self, host: str, port: int) -> list[str]:
        if host != "bucket.example":
            return [host]
        return [self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]]


@pytest.fixture
async def guarded() -> AsyncIterator[Callable[..., Guarded]]:
    made: list[Guarded] = []

    def make(*addresses: str) -> Guarded:
        made.append(Guarded(*addresses))
        return made[-1]

    yield make
    for buckets in made:
        await buckets.aclose()


def by_name(target: S3Target) -> S3Target:
    return replace(target, endpoint_url=target.endpoint_url.replace("127.0.0.1", "bucket.example"))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254"])
async def test_an_endpoint_at_a_private_address_is_refused(guarded: Callable[..., Guarded], bucket: S3Target, address: str) -> None:
    buckets = guarded(address)
    with pytest.raises(InvalidRequest, match="not at a public address"):
        await buckets.check(by_name(bucket))
    assert buckets.connector.asked == []


async def test_an_endpoint_at_a_public_address_is_used(guarded: Callable[..., Guarded], s3_server: S3Server, bucket: S3Target) -> None:
    buckets = guarded()
    target = replace(bucket, endpoint_url=bucket.endpoint_url.replace("127.0.0.1", PUBLIC))
    await buckets.check(target)
    storage = await buckets.open(target)
    await storage.save(NAME, bytes(2**20))

    assert await storage.load(NAME) == bytes(2**20)
    assert s3_server.keys_in(bucket) == [NAME]
    assert set(buckets.connector.asked) == {PUBLIC}


async def test_a_name_that_turns_private_after_the_check_is_not_connected_to(
    guarded: Callable[..., Guarded], s3_server: S3Server, bucket: S3Target
) -> None:
    buckets = guarded(PUBLIC, "127.0.0.1")
    with pytest.raises(InvalidRequest) as caught:
        await buckets.check(by_name(bucket))

    assert caught.value.problems == {"endpoint_url": ["Writing a test file to the bucket failed: it could not be reached."]}
    assert buckets.connector.asked == []
    assert s3_server.keys_in(bucket) == []


async def test_a_redirect_to_a_private_address_is_not_followed(
    guarded: Callable[..., Guarded], s3_server: S3Server, bucket: S3Target
) -> None:
    await in_bucket(bucket).save(NAME, b"secret")
    location = f"Location: {s3_server.url}/{bucket.bucket}/{NAME}\r\n"
    buckets = guarded(PUBLIC)
    async with OneAnswer(HTTPStatus.TEMPORARY_REDIRECT, headers=location) as server:
        storage = await buckets.open(by_name(replace(bucket, endpoint_url=server.url)), retries=0)
        with pytest.raises(StorageError, match="could not be reached"):
            await storage.load(NAME)
    assert len(server.requests) == 1
    assert buckets.connector.asked == [PUBLIC]


async def test_an_encrypted_connection_is_passed_through_unread(guarded: Callable[..., Guarded], bucket: S3Target) -> None:
    buckets = guarded(PUBLIC)
    async with OneAnswer(HTTPStatus.OK) as server:
        over_tls = by_name(replace(bucket, endpoint_url=server.url.replace("http://", "https://")))
        storage = await buckets.open(over_tls, retries=0)
        with pytest.raises(StorageError, match="could not be reached"):  # the server does not speak TLS
            await storage.load(NAME)
    assert buckets.connector.asked == [PUBLIC]


async def test_without_a_bucket_of_its_own_pictures_are_files(storage: SwitchingStorage, local: LocalStorage) -> None:
    await storage.save(NAME, b"pixels")

    assert await storage.path(NAME) == await local.path(NAME) is not None
    assert await storage.link(NAME) is None
    assert await storage.public_base() is None
    assert await storage.load(NAME) == b"pixels"


async def test_new_pictures_go_to_the_bucket_and_old_ones_stay_readable(
    storage: SwitchingStorage, targets: StorageTargets, s3_server: S3Server, bucket: S3Target
) -> None:
    await storage.save("sd/old.png", b"old")
    await targets.set(s3_server.public_url(bucket))
    await storage.save(NAME, b"pixels")

    assert s3_server.keys_in(bucket) == [NAME]
    assert await storage.path(NAME) is None
    assert await storage.link(NAME) == f"{s3_server.url}/{bucket.bucket}/{NAME}"
    assert await storage.public_base() == f"{s3_server.url}/{bucket.bucket}"
    assert await storage.load(NAME) == b"pixels"
    assert await storage.load("sd/old.png") == b"old"
    assert await storage.path("sd/old.png") is not None


async def test_after_a_reset_the_buckets_pictures_stay_readable(
    storage: SwitchingStorage, targets: StorageTargets, bucket: S3Target
) -> None:
    await targets.set(bucket)
    await storage.save(NAME, b"pixels")
    await targets.reset()
    await storage.save("sd/new.png", b"new")

    assert await storage.path("sd/new.png") is not None
    assert await storage.load(NAME) == b"pixels"
    assert await storage.exists(NAME)
    assert await storage.link(NAME) is not None


async def test_pictures_of_a_bucket_of_before_stay_readable_as_long_as_pictures_are_kept(
    opened: Opened, local: LocalStorage, s3_server: S3Server, bucket: S3Target, clock: Clock, sessions: Sessions
) -> None:
    targets = opened()
    storage = SwitchingStorage(local=local, configured=None, targets=targets)
    await targets.set(bucket)
    await storage.save(NAME, b"pixels")
    await targets.set(s3_server.new_bucket())

    assert await storage.load(NAME) == b"pixels"
    clock.time += KEEP_FORMER
    assert not await storage.exists(NAME)
    await targets.set(s3_server.new_bucket())
    async with sessions() as session:
        assert bucket.bucket not in list(await session.scalars(select(StorageTargetRow.bucket)))


async def test_new_keys_of_the_same_bucket_replace_the_old_ones(targets: StorageTargets, bucket: S3Target) -> None:
    await targets.set(bucket)
    await targets.set(replace(bucket, access_key_id="new"))

    known = await targets.known()
    assert (known.current, known.former) == (replace(bucket, access_key_id="new"), ())


async def test_deleting_removes_a_picture_wherever_it_is(
    storage: SwitchingStorage, targets: StorageTargets, s3_server: S3Server, bucket: S3Target, local: LocalStorage
) -> None:
    other = s3_server.new_bucket()
    await storage.save(NAME, b"pixels")
    for target in (bucket, other):
        await targets.set(target)
        await storage.save(NAME, b"pixels")
    await targets.reset()

    await storage.delete(NAME)

    assert s3_server.keys_in(bucket) == s3_server.keys_in(other) == []
    assert not await local.exists(NAME)
    with pytest.raises(PictureUnavailable):
        await storage.load(NAME)


async def test_the_configured_bucket_is_used_until_another_is_set(
    targets: StorageTargets, local: LocalStorage, s3_server: S3Server, bucket: S3Target
) -> None:
    storage = SwitchingStorage(local=local, configured=in_bucket(bucket), targets=targets)
    other = s3_server.new_bucket()
    await storage.save("sd/configured.png", b"1")
    await targets.set(other)
    await storage.save("sd/set.png", b"2")

    assert (s3_server.keys_in(bucket), s3_server.keys_in(other)) == (["sd/configured.png"], ["sd/set.png"])
    assert await storage.load("sd/configured.png") == b"1"


async def test_a_switch_in_another_process_is_noticed_after_a_few_seconds(
    opened: Opened, local: LocalStorage, s3_server: S3Server, bucket: S3Target, clock: Clock
) -> None:
    storage = SwitchingStorage(local=local, configured=None, targets=opened())
    await storage.save("sd/a.png", b"pixels")
    await opened().set(bucket)

    await storage.save("sd/b.png", b"pixels")
    clock.time += timedelta(seconds=3)
    await storage.save("sd/c.png", b"pixels")

    assert s3_server.keys_in(bucket) == ["sd/c.png"]


async def test_a_bucket_of_before_that_is_down_is_passed_over(storage: SwitchingStorage, targets: StorageTargets, bucket: S3Target) -> None:
    await targets.set(replace(bucket, endpoint_url="http://127.0.0.1:9"))
    await targets.reset()

    with pytest.raises(PictureUnavailable):
        await storage.load(NAME)
    await storage.delete(NAME)


@pytest.mark.parametrize("ask", ["load", "exists", "link", "delete"])
async def test_a_bucket_of_now_that_is_down_is_told(storage: SwitchingStorage, targets: StorageTargets, bucket: S3Target, ask: str) -> None:
    await targets.set(replace(bucket, endpoint_url="http://127.0.0.1:9"))
    asked: Callable[[str], Awaitable[object]] = getattr(storage, ask)

    with pytest.raises(StorageError, match="could not be reached"):
        await asked(NAME)


async def test_a_database_that_is_away_leaves_pictures_going_where_they_went(
    storage: SwitchingStorage, targets: StorageTargets, s3_server: S3Server, bucket: S3Target, sessions: Sessions, clock: Clock
) -> None:
    await targets.set(bucket)
    await storage.save("sd/a.png", b"pixels")
    async with sessions.begin() as session:
        await session.execute(text("ALTER TABLE storage_targets RENAME TO away"))
    clock.time += timedelta(minutes=1)
    try:
        await storage.save("sd/b.png", b"pixels")
    finally:
        async with sessions.begin() as session:  # the database is the next test's, too
            await session.execute(text("ALTER TABLE away RENAME TO storage_targets"))

    assert s3_server.keys_in(bucket) == ["sd/a.png", "sd/b.png"]
