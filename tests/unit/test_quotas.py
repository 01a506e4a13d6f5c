"""Limits per key, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerYear
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.api_keys import ApiKey
from sdapi.db.session import open_database
from sdapi.db.tables import JobRow, RateWindowRow
from sdapi.domain.errors import InvalidRequest, QueueFull
from sdapi.domain.job import JobStatus
from sdapi.domain.limits import KeyLimits, OwnLimits
from sdapi.quotas import Quotas
from sdapi.quotas.windows import SqlWindows

Sessions = async_sessionmaker[AsyncSession]
PATH = "/api/v3/text2img"
NO_OWN_LIMITS = OwnLimits()
NOON = datetime(2030, 1, 2, 12, 0, 0, tzinfo=UTC)


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def pass_s(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def other_process(database_url: str) -> AsyncIterator[Sessions]:
    """Sessions of a second process on the same database."""
    async with open_database(database_url, pool_size=5) as opened:
        yield opened


def a_key(key_id: int = 1, limits: OwnLimits = NO_OWN_LIMITS) -> ApiKey:
    return ApiKey(id=key_id, name="studio", role="user", prefix="sd_12345", created_at=NOON, revoked_at=None, limits=limits)


def quotas_of(sessions: Sessions, clock: Clock, *, repeats: int = 0, **defaults: int) -> Quotas:
    return Quotas(sessions, defaults=KeyLimits(**defaults), repeats_per_30_s=repeats, now=clock)


async def passes(call: Awaitable[None]) -> bool:
    try:
        await call
    except QueueFull:
        return False
    return True


async def let_through(calls: Iterable[Awaitable[None]]) -> int:
    """How many of calls made at the same time are let through."""
    return sum(await asyncio.gather(*map(passes, calls)))


async def refusal_of(call: Awaitable[None]) -> QueueFull:
    with pytest.raises(QueueFull) as refusal:
        await call
    return refusal.value


# -- requests per minute ----------------------------------------------------------------------------------------------------------


async def test_no_more_requests_a_minute_than_allowed(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, requests_per_minute=3)
    for _ in range(3):
        await quotas.admit(a_key(), path=PATH, body={})

    refusal = await refusal_of(quotas.admit(a_key(), path=PATH, body={}))

    assert 1 <= refusal.retry_after_s <= 60
    assert refusal.reason == f"Maximum 3 requests per minute allowed, please wait for {refusal.retry_after_s} seconds and try again"


@pytest.mark.parametrize("into_the_minute_s", [0.05, 0.5, 20, 59.9])
async def test_after_waiting_as_told_the_request_is_let_through(sessions: Sessions, clock: Clock, into_the_minute_s: float) -> None:
    quotas = quotas_of(sessions, clock, requests_per_minute=3)
    clock.pass_s(into_the_minute_s)
    admit = [quotas.admit(a_key(), path=PATH, body={}) for _ in range(8)]
    for call in admit[:3]:
        await call

    for call, again in zip(admit[3::2], admit[4::2], strict=False):
        clock.pass_s((await refusal_of(call)).retry_after_s)
        await again
    await refusal_of(admit[7])


async def test_two_minutes_later_all_requests_are_free_again(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, requests_per_minute=3)
    for _ in range(2):
        assert [await passes(quotas.admit(a_key(), path=PATH, body={})) for _ in range(4)] == [True, True, True, False]
        clock.pass_s(120)


async def test_each_key_has_its_own_requests(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, requests_per_minute=1)
    for key_id in (0, 1, 11):
        await quotas.admit(a_key(key_id), path=PATH, body={})
        assert not await passes(quotas.admit(a_key(key_id), path=PATH, body={}))


async def test_a_keys_own_limits_go_before_the_defaults(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, requests_per_minute=2, daily_pictures=1)

    assert await let_through(quotas.admit(a_key(1, OwnLimits(requests_per_minute=1)), path=PATH, body={}) for _ in range(5)) == 1
    assert await let_through(quotas.admit(a_key(2, OwnLimits(requests_per_minute=0)), path=PATH, body={}) for _ in range(5)) == 5
    assert await let_through(quotas.admit(a_key(3, OwnLimits(daily_pictures=9)), path=PATH, body={}) for _ in range(5)) == 2
    assert await let_through(quotas.take_pictures(a_key(3, OwnLimits(daily_pictures=3)), 1) for _ in range(5)) == 3


async def test_of_fifty_requests_at_once_exactly_ten_are_let_through(sessions: Sessions, other_process: Sessions, clock: Clock) -> None:
    here, there = (quotas_of(either, clock, requests_per_minute=10) for either in (sessions, other_process))

    assert await let_through((here, there)[i % 2].admit(a_key(), path=PATH, body={}) for i in range(50)) == 10


# -- the same request again -------------------------------------------------------------------------------------------------------


async def test_the_same_request_again_and_again_is_refused_in_the_documented_words(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, repeats=2)
    clock.pass_s(10)
    assert [await passes(quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"})) for _ in range(3)] == [True, True, False]

    refusal = await refusal_of(quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"}))

    assert refusal.retry_after_s == 21
    assert refusal.reason == (
        "you are sending same request multiple times, spam filter is enabled, "
        f"please wait for {refusal.retry_after_s} seconds and try again"
    )
    clock.pass_s(refusal.retry_after_s)
    await quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"})


@pytest.mark.parametrize(
    ("path", "again"),
    [
        (PATH, {"seed": 1, "prompt": "a \ud800", "nested": {"b": [1, None], "a": 2}}),  # another order
        (PATH, {"key": "sd_b", "prompt": "a \ud800", "nested": {"a": 2, "b": [1, None]}, "seed": 1}),  # another key
        (PATH + "/", {"prompt": "a \ud800", "nested": {"a": 2, "b": [1, None]}, "seed": 1}),
    ],
)
async def test_order_key_and_a_trailing_slash_make_no_other_request(
    sessions: Sessions, clock: Clock, path: str, again: dict[str, object]
) -> None:
    quotas = quotas_of(sessions, clock, repeats=1)
    await quotas.admit(a_key(), path=PATH, body={"key": "sd_a", "prompt": "a \ud800", "nested": {"a": 2, "b": [1, None]}, "seed": 1})

    assert not await passes(quotas.admit(a_key(), path=path, body=again))


@pytest.mark.parametrize(
    ("key_id", "path", "other"),
    [
        (2, PATH, {"prompt": "a cat"}),
        (1, "/api/v3/img2img", {"prompt": "a cat"}),
        (1, PATH, {"prompt": "a dog"}),
        (1, PATH, {"prompt": "a cat", "lora": {"key": "sd_a"}}),
        (1, PATH, {"prompt": ["a cat"]}),
    ],
)
async def test_another_client_path_or_field_is_another_request(
    sessions: Sessions, clock: Clock, key_id: int, path: str, other: dict[str, object]
) -> None:
    quotas = quotas_of(sessions, clock, repeats=1)
    await quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"})

    await quotas.admit(a_key(key_id), path=path, body=other)


async def test_of_fifty_equal_requests_at_once_exactly_ten_are_let_through(
    sessions: Sessions, other_process: Sessions, clock: Clock
) -> None:
    here, there = (quotas_of(either, clock, repeats=10) for either in (sessions, other_process))

    assert await let_through((here, there)[i % 2].admit(a_key(), path=PATH, body={"prompt": "a cat"}) for i in range(50)) == 10


async def test_a_refused_repeat_takes_none_of_the_minutes_requests(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, repeats=1, requests_per_minute=2)
    await quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"})
    for _ in range(5):
        assert not await passes(quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"}))

    await quotas.admit(a_key(), path=PATH, body={"prompt": "a dog"})


async def test_a_request_over_the_minutes_limit_does_not_count_as_a_repeat(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, repeats=1, requests_per_minute=1)
    await quotas.admit(a_key(), path=PATH, body={"prompt": "a dog"})
    refusal = await refusal_of(quotas.admit(a_key(), path=PATH, body={"prompt": "a cat"}))
    assert "per minute" in refusal.reason

    await quotas_of(sessions, clock, repeats=1).admit(a_key(), path=PATH, body={"prompt": "a cat"})


async def test_a_body_too_deep_to_write_is_refused_as_bad_input(sessions: Sessions, clock: Clock) -> None:
    deep: object = None
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(InvalidRequest):
        await quotas_of(sessions, clock, repeats=1).admit(a_key(), path=PATH, body={"prompt": deep})


# -- pictures a day ---------------------------------------------------------------------------------------------------------------


async def test_pictures_are_refused_beyond_the_days_and_come_back_at_midnight_utc(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, daily_pictures=5)
    await quotas.take_pictures(a_key(), 4)

    refusal = await refusal_of(quotas.take_pictures(a_key(), 2))

    assert refusal.retry_after_s == 12 * 60 * 60
    assert refusal.reason.startswith("Maximum 5 pictures per day allowed, please wait")
    clock.pass_s(refusal.retry_after_s - 1)
    assert (await refusal_of(quotas.take_pictures(a_key(), 2))).retry_after_s == 1
    clock.pass_s(1)
    await quotas.take_pictures(a_key(), 5)


async def test_refused_pictures_take_nothing(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, daily_pictures=5)
    for count in (6, 4, 2, 2):
        await passes(quotas.take_pictures(a_key(), count))

    await quotas.take_pictures(a_key(), 1)
    assert not await passes(quotas.take_pictures(a_key(), 1))


async def test_pictures_given_back_can_be_taken_again_and_no_more_than_those(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, daily_pictures=5)
    await quotas.give_back_pictures(a_key(), 3)
    await quotas.take_pictures(a_key(), 5)
    await quotas.give_back_pictures(a_key(), 2)
    await quotas.give_back_pictures(a_key(2), 2)

    assert await let_through(quotas.take_pictures(a_key(), 1) for _ in range(5)) == 2
    await quotas.give_back_pictures(a_key(), 9)
    assert await let_through(quotas.take_pictures(a_key(), 1) for _ in range(9)) == 5


async def test_yesterdays_pictures_given_back_today_add_nothing(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, daily_pictures=5)
    await quotas.take_pictures(a_key(), 5)
    clock.pass_s(12 * 60 * 60)
    await quotas.give_back_pictures(a_key(), 5)

    assert await let_through(quotas.take_pictures(a_key(), 1) for _ in range(9)) == 5


async def test_a_changed_limit_keeps_what_was_taken_today(sessions: Sessions, clock: Clock) -> None:
    await quotas_of(sessions, clock, daily_pictures=5).take_pictures(a_key(), 5)

    assert await let_through(quotas_of(sessions, clock, daily_pictures=7).take_pictures(a_key(), 1) for _ in range(5)) == 2


async def test_two_processes_hold_the_days_pictures_together(sessions: Sessions, other_process: Sessions, clock: Clock) -> None:
    here, there = (quotas_of(either, clock, daily_pictures=10) for either in (sessions, other_process))

    assert await let_through((here, there)[i % 2].take_pictures(a_key(), 3) for i in range(20)) == 3


# -- queued jobs ------------------------------------------------------------------------------------------------------------------


def a_job(job_id: int, client_id: int = 1, status: JobStatus = JobStatus.QUEUED) -> JobRow:
    return JobRow(
        id=job_id,
        client_id=client_id,
        dialect="v3",
        request="{}",
        echo={},
        status=status,
        cost=1.0,
        output_names=[],
        public_url="",
        attempts=0,
        cancel_requested=False,
        created_at=NOON,
        files_removed=False,
        is_temporary=False,
    )


async def submit(quotas: Quotas, sessions: Sessions, job: JobRow) -> None:
    async with sessions.begin() as session:
        await quotas.refuse_beyond_queued(session, a_key(job.client_id))
        session.add(job)


async def test_a_key_has_no_more_jobs_waiting_than_allowed(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, max_queued_jobs=2)
    async with sessions.begin() as session:
        session.add_all([a_job(1), a_job(2, status=JobStatus.RUNNING), a_job(3, status=JobStatus.FAILED), a_job(4, client_id=2)])
    await submit(quotas, sessions, a_job(5))

    refusal = await refusal_of(submit(quotas, sessions, a_job(6)))

    assert refusal.reason == "Maximum 2 queued requests allowed, please wait for 30 seconds and try again"
    await submit(quotas, sessions, a_job(7, client_id=2))


async def test_submits_at_once_in_two_processes_fill_the_queue_exactly(sessions: Sessions, other_process: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, max_queued_jobs=5)

    added = await let_through(submit(quotas, (sessions, other_process)[i % 2], a_job(i + 1)) for i in range(30))

    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(JobRow)) == added == 5


# -- housekeeping -----------------------------------------------------------------------------------------------------------------


async def test_limits_of_zero_cost_no_sql(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock)
    statements: list[str] = []
    async with sessions() as session:
        engine = session.get_bind()

    @event.listens_for(engine, "before_cursor_execute")
    def _note(connection: object, cursor: object, statement: str, *more: object) -> None:
        statements.append(statement)

    async with sessions() as session:
        await quotas.admit(a_key(), path=PATH, body={})
        await quotas.take_pictures(a_key(), 4)
        await quotas.give_back_pictures(a_key(), 4)
        await quotas.refuse_beyond_queued(session, a_key())

    assert statements == []


async def test_cleaning_up_forgets_windows_that_are_over_and_no_others(sessions: Sessions, clock: Clock) -> None:
    quotas = quotas_of(sessions, clock, repeats=1, requests_per_minute=10, daily_pictures=10)
    await quotas.admit(a_key(), path=PATH, body={})
    await quotas.take_pictures(a_key(), 10)

    assert await quotas.clean_up(clock.time) == 0
    clock.pass_s(3600)

    assert await quotas.clean_up(clock.time) == 2
    assert await quotas.clean_up(clock.time) == 0
    assert not await passes(quotas.take_pictures(a_key(), 1))
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(RateWindowRow)) == 1


# -- the storage, by itself -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [FixedWindowRateLimiter, SlidingWindowCounterRateLimiter])
async def test_the_storage_answers_as_the_librarys_own_does(
    sessions: Sessions, strategy: type[FixedWindowRateLimiter | SlidingWindowCounterRateLimiter]
) -> None:
    item = RateLimitItemPerYear(20)
    costs = random.Random(7).choices(range(1, 8), k=25)
    memory = strategy(MemoryStorage())
    async with sessions.begin() as session:
        sql = strategy(SqlWindows(session, datetime.now(UTC)))
        for cost in costs:
            assert await sql.test(item, "a", cost=cost) == await memory.test(item, "a", cost=cost)
            assert await sql.hit(item, "a", cost=cost) == await memory.hit(item, "a", cost=cost)
            ours, theirs = await sql.get_window_stats(item, "a"), await memory.get_window_stats(item, "a")
            assert ours.remaining == theirs.remaining
            assert ours.reset_time == pytest.approx(theirs.reset_time, abs=5)


async def test_the_previous_window_weighs_less_and_less(sessions: Sessions) -> None:
    item = RateLimitItemPerMinute(10)
    async with sessions.begin() as session:
        assert await SlidingWindowCounterRateLimiter(SqlWindows(session, NOON)).hit(item, cost=10)
        later = [SlidingWindowCounterRateLimiter(SqlWindows(session, NOON + timedelta(seconds=s))) for s in (31, 62, 93, 124)]
        left = [(await limiter.get_window_stats(item)).remaining for limiter in later]

    assert left == [0, 1, 6, 10]


async def test_a_window_that_is_over_begins_anew(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        windows = SqlWindows(session, NOON)
        assert [await windows.incr("a", 10, 3), await windows.incr("a", 99, 4), await windows.get("a")] == [3, 7, 7]
        assert await windows.get_expiry("a") == (NOON + timedelta(seconds=10)).timestamp()

        windows = SqlWindows(session, NOON + timedelta(seconds=10))
        assert [await windows.get("a"), await windows.decr("a"), await windows.incr("a", 10, 2)] == [0, 0, 2]


async def test_windows_can_be_cleared_one_by_one_or_all(sessions: Sessions) -> None:
    item = RateLimitItemPerMinute(1)
    async with sessions.begin() as session:
        windows = SqlWindows(session, NOON)
        limiter = SlidingWindowCounterRateLimiter(windows)
        assert await windows.check()
        for who in ("a", "b"):
            assert await limiter.hit(item, who)
        await limiter.clear(item, "a")
        assert [await limiter.hit(item, who) for who in ("a", "b")] == [True, False]
        assert await windows.reset() == 2
        assert await limiter.hit(item, "b")
