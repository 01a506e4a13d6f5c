from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.api_keys import ApiKeys
from sdapi.db.tables import ApiKeyRow
from sdapi.domain.limits import LARGEST_LIMIT, KeyLimits, OwnLimits

Sessions = async_sessionmaker[AsyncSession]


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
def keys(sessions: Sessions, clock: Clock) -> ApiKeys:
    return ApiKeys(sessions, None, clock)


async def test_a_created_key_is_recognised_with_its_role(keys: ApiKeys, clock: Clock) -> None:
    key, plain = await keys.create("studio", "enterprise")

    assert await keys.authenticate(plain) == key
    assert (key.name, key.role, key.prefix, key.created_at) == ("studio", "enterprise", plain[:8], clock.time)
    assert key.id > 0


@pytest.mark.parametrize("wrong", ["", "sd_", "sd_wrong", "\ud800", "é" * 1000])
async def test_a_wrong_key_is_not_recognised(keys: ApiKeys, wrong: str) -> None:
    await keys.create("studio", "user")

    assert await keys.authenticate(wrong) is None


async def test_the_plain_key_is_not_in_the_database(keys: ApiKeys, sessions: Sessions) -> None:
    _, plain = await keys.create("studio", "user")

    async with sessions() as session:
        row = (await session.scalars(select(ApiKeyRow))).one()
    assert plain[8:] not in repr(vars(row))


@pytest.mark.parametrize("by", ["prefix", "id", "id as text"])
async def test_a_revoked_key_stops_working_at_once(keys: ApiKeys, clock: Clock, by: str) -> None:
    key, plain = await keys.create("studio", "user")
    assert await keys.authenticate(plain) is not None

    names: dict[str, str | int] = {"prefix": key.prefix, "id": key.id, "id as text": str(key.id)}
    revoked = await keys.revoke(names[by])

    assert revoked is not None
    assert revoked.revoked_at == clock.time
    assert await keys.authenticate(plain) is None
    assert await keys.list() == (revoked,)


async def test_revoking_again_keeps_the_first_moment(keys: ApiKeys, clock: Clock) -> None:
    key, _ = await keys.create("studio", "user")
    first = await keys.revoke(key.id)
    clock.time += timedelta(days=1)

    assert await keys.revoke(key.id) == first


@pytest.mark.parametrize("unknown", ["sd_xxxxx", 4711, "99999999999999999999", "9" * 5000, "²", ""])
async def test_revoking_an_unknown_key_says_so(keys: ApiKeys, unknown: str | int) -> None:
    key, plain = await keys.create("studio", "user")

    assert await keys.revoke(unknown) is None
    assert await keys.authenticate(plain) == key


async def test_an_ambiguous_prefix_revokes_nothing(keys: ApiKeys, sessions: Sessions) -> None:
    _, plain = await keys.create("one", "user")
    _, other = await keys.create("two", "user")
    async with sessions.begin() as session:
        await session.execute(text("UPDATE api_keys SET prefix = 'sd_equal'"))

    assert await keys.revoke("sd_equal") is None
    assert await keys.authenticate(plain) is not None
    assert await keys.authenticate(other) is not None


async def test_another_processs_revocation_counts_after_the_cache_time(keys: ApiKeys, sessions: Sessions, clock: Clock) -> None:
    key, plain = await keys.create("studio", "user")
    assert await keys.authenticate(plain) == key
    await ApiKeys(sessions, None, clock).revoke(key.id)

    assert await keys.authenticate(plain) == key
    clock.time += timedelta(seconds=5)
    assert await keys.authenticate(plain) is None


async def test_the_key_from_the_settings_has_id_0_and_is_not_listed(sessions: Sessions, clock: Clock) -> None:
    keys = ApiKeys(sessions, "s3cret-é", clock)

    key = await keys.authenticate("s3cret-é")

    assert key is not None
    assert (key.id, key.role) == (0, "enterprise")
    assert await keys.authenticate("s3cret") is None
    assert await keys.list() == ()


async def test_an_empty_key_in_the_settings_is_no_key(sessions: Sessions, clock: Clock) -> None:
    keys = ApiKeys(sessions, "", clock)

    assert await keys.authenticate("") is None
    assert not await keys.any_exist()


async def test_whether_any_key_is_valid(keys: ApiKeys, sessions: Sessions, clock: Clock) -> None:
    assert not await keys.any_exist()
    assert await ApiKeys(sessions, "s3cret", clock).any_exist()

    key, _ = await keys.create("studio", "user")
    assert await keys.any_exist()
    await keys.revoke(key.id)
    assert not await keys.any_exist()


async def test_a_key_comes_with_the_limits_it_was_created_with(keys: ApiKeys) -> None:
    limited, plain = await keys.create("studio", "user", OwnLimits(max_queued_jobs=5, daily_pictures=0))
    plainly, _ = await keys.create("studio", "user")

    assert limited.limits == OwnLimits(5, None, 0)
    assert plainly.limits == OwnLimits()
    assert await keys.authenticate(plain) == limited
    assert await keys.list() == (limited, plainly)


async def test_setting_a_limit_leaves_the_others_and_holds_at_once(keys: ApiKeys) -> None:
    key, plain = await keys.create("studio", "user", OwnLimits(5, 6, 7))
    await keys.authenticate(plain)

    changed = await keys.set_limits(key.prefix, max_queued_jobs=None, daily_pictures=LARGEST_LIMIT)

    assert changed is not None
    assert changed.limits == OwnLimits(None, 6, LARGEST_LIMIT)
    assert await keys.authenticate(plain) == changed


async def test_limits_of_an_unknown_key_are_not_set(keys: ApiKeys) -> None:
    key, _ = await keys.create("studio", "user")

    assert await keys.set_limits("sd_xxxxx", requests_per_minute=1) is None
    assert await keys.list() == (key,)


@pytest.mark.parametrize("limit", [-1, LARGEST_LIMIT + 1])
async def test_a_limit_out_of_range_is_not_set(keys: ApiKeys, limit: int) -> None:
    key, _ = await keys.create("studio", "user")

    with pytest.raises(ValueError, match="requests_per_minute"):
        await keys.set_limits(key.id, requests_per_minute=limit)
    assert await keys.list() == (key,)


async def test_the_key_from_the_settings_has_the_default_limits(sessions: Sessions, clock: Clock) -> None:
    key = await ApiKeys(sessions, "s3cret", clock).authenticate("s3cret")
    defaults = KeyLimits(1, 2, 3)

    assert key is not None
    assert key.limits.over(defaults) == defaults
