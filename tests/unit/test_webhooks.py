from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import WebhookRow
from sdapi.domain.errors import InvalidRequest
from sdapi.webhooks import DeliveryTimes, WebhookSender, checked_url, enqueue, open_webhook_client, secret_text
from tests.webhook_receiver import Call, receiving

Sessions = async_sessionmaker[AsyncSession]

SECRET = "a secret to type"
BODY: dict[str, Any] = {"status": "success", "id": 7, "output": ["http://here/é.png"], "track_id": None}
QUICK = DeliveryTimes(timeout_s=20, first_pause_s=0.02, longest_pause_s=0.1, poll_s=0.02, stop_grace_s=0.05)


class Clock:
    """Real time, and as much more as it was put forward."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def put_forward(self, by: timedelta) -> None:
        self._ahead += by


@asynccontextmanager
async def sending(
    sessions: Sessions,
    *,
    times: DeliveryTimes = QUICK,
    now: Callable[[], datetime] | None = None,
    allow_private: bool = True,
    max_parallel: int = 64,
    max_parallel_per_host: int = 4,
) -> AsyncIterator[WebhookSender]:
    """A sender at work, for which every name is this machine's."""

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with open_webhook_client(allow_private=allow_private, max_parallel=max_parallel, resolve=here) as client:
        sender = WebhookSender(
            sessions=sessions,
            client=client,
            secret=SECRET.encode(),
            now=now or Clock(),
            times=times,
            max_parallel=max_parallel,
            max_parallel_per_host=max_parallel_per_host,
        )
        sender.start()
        try:
            yield sender
        finally:
            await sender.stop()


async def wrote(sessions: Sessions, url: str, *, count: int = 1, now: datetime | None = None) -> list[str]:
    """Commit deliveries; their ids."""
    async with sessions.begin() as session:
        return [enqueue(session, url=url, body=BODY, now=now or datetime.now(UTC), job_id=7) for _ in range(count)]


async def rows(sessions: Sessions) -> list[WebhookRow]:
    async with sessions() as session:
        return list(await session.scalars(select(WebhookRow)))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def until_rows(sessions: Sessions, holds: Callable[[WebhookRow], bool]) -> list[WebhookRow]:
    """The rows, once all of them are so."""
    async with asyncio.timeout(30):
        while not all(holds(row) for row in await rows(sessions)):
            await asyncio.sleep(0.01)
    return await rows(sessions)


def statuses(*given: int) -> Callable[[Call], int]:
    """These, one after the other, and then 200."""
    left = list(given)
    return lambda call: left.pop(0) if left else 200


def silent_to(*paths: str) -> Callable[[Call], int | None]:
    return lambda call: None if call.path in paths else 200


def ids(calls: Iterable[Call]) -> list[str]:
    return [call.delivery for call in calls]


async def test_a_delivery_arrives_once_with_its_id_a_signature_and_the_body_as_it_was_given(sessions: Sessions) -> None:
    async with receiving() as receiver, sending(sessions):
        [delivery] = await wrote(sessions, receiver.url())
        [row] = await until_rows(sessions, lambda row: row.delivered_at is not None)
    [call] = receiver.calls
    assert call.delivery == delivery
    assert call.attempt == 1
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"].startswith("sdapi/")
    assert call.headers["x-sdapi-signature"] == "sha256=" + hmac.new(SECRET.encode(), call.body, hashlib.sha256).hexdigest()
    assert list(json.loads(call.body).items()) == list(BODY.items())
    assert b" " not in call.body
    assert (row.next_try_at, row.last_error) == (None, None)


async def test_a_failed_delivery_is_tried_again_with_the_same_id_and_body_until_it_is_taken(sessions: Sessions) -> None:
    async with receiving(statuses(500, 404, 503)) as receiver, sending(sessions):
        [delivery] = await wrote(sessions, receiver.url())
        await until_rows(sessions, lambda row: row.delivered_at is not None)
    assert ids(receiver.calls) == [delivery] * 4
    assert [call.attempt for call in receiver.calls] == [1, 2, 3, 4]
    assert len({call.body for call in receiver.calls}) == 1


async def test_waking_delivers_without_waiting_for_the_next_look(sessions: Sessions) -> None:
    rarely = DeliveryTimes(poll_s=3600)
    async with receiving() as receiver, sending(sessions, times=rarely) as sender:
        await wrote(sessions, receiver.url())
        sender.wake()
        await until(lambda: len(receiver.calls) == 1)


async def test_a_receiver_that_is_slow_does_not_hold_up_another(sessions: Sessions) -> None:
    async with receiving(silent_to("/slow")) as receiver, sending(sessions, max_parallel=5) as _:
        await wrote(sessions, receiver.url("slow.example", "/slow"), count=50)
        await until(lambda: receiver.held == 4)
        await wrote(sessions, receiver.url("good.example", "/good"), count=20)
        await until(lambda: len(receiver.calls_to("/good")) == 20)
        assert receiver.most_held == 4, "a host gets no more requests at once than it may"


async def test_many_hosts_that_fail_leave_room_for_the_others(sessions: Sessions) -> None:
    def answer(call: Call) -> int | None:
        return 200 if call.path == "/good" else 500 if call.attempt == 1 else None

    async with receiving(answer) as receiver, sending(sessions, max_parallel=8) as _:
        for number in range(8):
            await wrote(sessions, receiver.url(f"bad{number}.example", "/bad"), count=2)
        await until(lambda: receiver.held == 4)
        await wrote(sessions, receiver.url("good.example", "/good"), count=10)
        await until(lambda: len(receiver.calls_to("/good")) == 10)
        assert receiver.most_held == 4, "half of all requests"


async def test_behind_five_hundred_deliveries_to_a_dead_host_another_one_is_next(sessions: Sessions) -> None:
    async with receiving() as receiver:
        async with receiving() as gone:
            dead = gone.url("dead.example")
        await wrote(sessions, dead, count=500)
        [delivery] = await wrote(sessions, receiver.url("good.example"))
        async with sending(sessions, times=DeliveryTimes(poll_s=0.02)):
            await until(lambda: ids(receiver.calls) == [delivery])
            assert sum(row.attempts > 0 for row in await rows(sessions)) < 250


async def test_a_private_address_is_not_connected_to_and_that_counts_as_a_failed_try(sessions: Sessions) -> None:
    async with receiving() as receiver, sending(sessions, allow_private=False):
        await wrote(sessions, receiver.url("innocent.example"))
        await wrote(sessions, receiver.url("127.0.0.1"))
        seen = await until_rows(sessions, lambda row: row.attempts >= 2 and row.last_error is not None)
        assert receiver.connections == 0
    assert {row.last_error for row in seen} == {"the host is not at a public address"}


async def test_what_is_rolled_back_is_not_sent(sessions: Sessions) -> None:
    async with receiving() as receiver, sending(sessions):
        async with sessions.begin() as session:
            enqueue(session, url=receiver.url(path="/never"), body=BODY, now=datetime.now(UTC))
            await session.flush()
            await session.rollback()
        await wrote(sessions, receiver.url(path="/after"))
        await until(lambda: len(receiver.calls) == 1)
        assert receiver.calls_to("/never") == []
        assert len(await rows(sessions)) == 1


async def test_two_senders_never_try_the_same_delivery_at_once(sessions: Sessions) -> None:
    async with receiving() as receiver, AsyncExitStack() as stack:
        deliveries = await wrote(sessions, receiver.url(), count=60)
        for _ in range(3):
            await stack.enter_async_context(sending(sessions, max_parallel_per_host=7))
        await until_rows(sessions, lambda row: row.delivered_at is not None)
    assert sorted(ids(receiver.calls)) == sorted(deliveries)


async def test_what_a_stop_interrupts_is_delivered_by_the_next_process(sessions: Sessions) -> None:
    async with receiving(silent_to("/slow")) as receiver:
        deliveries = await wrote(sessions, receiver.url(path="/slow"), count=6)
        async with sending(sessions):
            await until(lambda: receiver.held == 4)
        assert all(row.delivered_at is None and row.last_error is None for row in await rows(sessions))
        receiver.release.set()
        async with sending(sessions):
            await until_rows(sessions, lambda row: row.delivered_at is not None)
    assert set(ids(receiver.calls)) == set(deliveries)


async def test_a_stop_lets_a_request_under_way_finish(sessions: Sessions) -> None:
    patient = DeliveryTimes(stop_grace_s=30, poll_s=0.02)
    async with receiving(silent_to("/slow")) as receiver:
        await wrote(sessions, receiver.url(path="/slow"))
        async with sending(sessions, times=patient) as sender:
            await until(lambda: receiver.held == 1)
            stopping = asyncio.create_task(sender.stop())
            receiver.release.set()
            await stopping
        [row] = await rows(sessions)
        assert row.delivered_at is not None


async def test_a_lease_that_ran_out_leaves_the_delivery_to_somebody_else(sessions: Sessions) -> None:
    clock = Clock()
    async with receiving(silent_to("/slow")) as receiver, sending(sessions):
        [delivery] = await wrote(sessions, receiver.url(path="/slow"))
        await until(lambda: receiver.held == 1)
        clock.put_forward(timedelta(seconds=QUICK.lease_s + 1))
        async with sending(sessions, now=clock):
            await until(lambda: receiver.held == 2)
            receiver.release.set()
            [row] = await until_rows(sessions, lambda row: row.delivered_at is not None)
    assert ids(receiver.calls) == [delivery] * 2
    assert row.attempts == 2


async def test_an_answer_that_does_not_come_in_time_is_a_failed_try(sessions: Sessions) -> None:
    hasty = DeliveryTimes(timeout_s=0.05, first_pause_s=0.01, poll_s=0.01)
    async with receiving(silent_to("/slow")) as receiver, sending(sessions, times=hasty):
        await wrote(sessions, receiver.url(path="/slow"))
        await until(lambda: len(receiver.calls) >= 2)
        [row] = await until_rows(sessions, lambda row: row.last_error is not None)
    assert row.last_error == "the receiver did not answer in time"


def recorded(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says about tries that have ended."""
    return [message for message in caplog.messages if message.startswith("webhook ")]


async def test_a_delivery_is_given_up_after_an_hour(sessions: Sessions, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sdapi")
    clock = Clock()
    slowly = DeliveryTimes(first_pause_s=600, poll_s=0.02)
    async with receiving(lambda _: 500) as receiver, sending(sessions, times=slowly, now=clock):
        await wrote(sessions, receiver.url())
        for tried in range(1, 20):
            await until(lambda tried=tried: len(recorded(caplog)) == tried)  # type: ignore[misc]
            [row] = await rows(sessions)
            if row.next_try_at is None:
                break
            assert row.next_try_at <= row.created_at + timedelta(hours=1)
            clock.put_forward(row.next_try_at - clock())
    assert row.delivered_at is None
    assert row.last_error == "the receiver answered 500"
    assert 4 <= len(receiver.calls) <= 8
    assert recorded(caplog)[-1] == "webhook given up"


async def test_a_failed_delivery_whose_hour_ended_while_nobody_ran_is_given_up_and_one_never_tried_is_sent(sessions: Sessions) -> None:
    async with receiving() as receiver:
        earlier = datetime.now(UTC) - timedelta(hours=2)
        [tried, untried] = await wrote(sessions, receiver.url(), count=2, now=earlier)
        async with sessions.begin() as session:
            row = await session.get_one(WebhookRow, tried)
            row.attempts, row.last_error = 3, "the receiver answered 500"
        async with sending(sessions):
            await until_rows(sessions, lambda row: row.next_try_at is None)
    assert ids(receiver.calls) == [untried]


async def test_redirects_are_failures_and_not_followed(sessions: Sessions) -> None:
    async with receiving(statuses(302, 307)) as receiver, sending(sessions):
        await wrote(sessions, receiver.url())
        await until_rows(sessions, lambda row: row.delivered_at is not None)
    assert [call.path for call in receiver.calls] == ["/hook"] * 3


async def test_pauses_double_up_to_ten_minutes() -> None:
    times = DeliveryTimes()
    assert [round(times.pause(attempt).total_seconds() / 2 ** (attempt - 1)) for attempt in range(1, 10)] == [1] * 9
    assert all(480 <= times.pause(attempt).total_seconds() <= 720 for attempt in (11, 20, 5000))


async def test_clean_up_deletes_old_deliveries_that_have_ended_and_no_others(sessions: Sessions) -> None:
    async with receiving(lambda call: 200 if call.path == "/good" else 500) as receiver, sending(sessions) as sender:
        old = datetime.now(UTC) - timedelta(minutes=30)
        await wrote(sessions, receiver.url(path="/good"), count=3, now=old)
        recent = await wrote(sessions, receiver.url(path="/good"))
        await until_rows(sessions, lambda row: row.delivered_at is not None)
        waiting = await wrote(sessions, receiver.url(path="/bad"), now=old)
        assert await sender.clean_up(datetime.now(UTC) - timedelta(minutes=10)) == 3
        assert {row.id for row in await rows(sessions)} == {*recent, *waiting}


async def test_text_that_no_database_stores_is_delivered_all_the_same(sessions: Sessions) -> None:
    async with receiving() as receiver, sending(sessions):
        async with sessions.begin() as session:
            enqueue(session, url=receiver.url(), body={"track_id": "\ud83d\x00 é"}, now=datetime.now(UTC))
        await until(lambda: len(receiver.calls) == 1)
    assert json.loads(receiver.calls[0].body) == {"track_id": "\ud83d\x00 é"}


async def test_a_url_that_was_never_checked_fails_without_harm(sessions: Sessions) -> None:
    async with receiving() as receiver, sending(sessions):
        for url in ("http://xn--/", "http://[::1", "http://a.example:99999/", "ftp://x.example/", ""):
            await wrote(sessions, url)
        await wrote(sessions, receiver.url())
        await until(lambda: len(receiver.calls) == 1)
        await until_rows(sessions, lambda row: row.delivered_at is not None or row.last_error is not None)


async def test_logs_carry_ids_and_the_host_but_no_query_string_and_no_body(sessions: Sessions, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sdapi")
    async with receiving(statuses(500)) as receiver, sending(sessions):
        [delivery] = await wrote(sessions, receiver.url("some.example", "/hook?token=hidden"))
        await until_rows(sessions, lambda row: row.delivered_at is not None)
        await until(lambda: "webhook delivered" in caplog.messages)
    ours = [vars(record) for record in caplog.records if record.name.startswith("sdapi")]
    assert {"webhook failed, to be tried again", "webhook delivered"} <= {record["msg"] for record in ours}
    assert all(record["delivery"] == delivery and record["host"] == "some.example" and record["job_ids"] == [7] for record in ours)
    assert "hidden" not in str(ours)
    assert "track_id" not in str(ours)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        " https://a.example:8443/hook?x=1 ",
        "http://93.184.216.34/",
        "http://[2606:2800:220:1::1]/",
        "http://bücher.example/é",
    ],
)
def test_a_plain_url_is_accepted(url: str) -> None:
    assert checked_url("webhook", url) == url.strip()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example/hook",
        "ftp://a.example/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://me:secret@a.example/",
        "http://me@a.example/",
        "http://a.example/\r\nX-Evil: 1",
        "http://a.example/\x00",
        "http://a.example/\ud83d",
        "http://a.example/with blank",
        "http://xn--/",
        "http://[::1",
        "http://a.example:99999/",
        "http://a.example:0/",
        "http://a.example:x/",
        "http://" + "a" * 254 + "/",
        "http://a.example/" + "a" * 3000,
    ],
)
def test_a_url_nothing_can_be_sent_to_is_refused_by_its_field(url: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        checked_url("webhook", url)
    assert list(refusal.value.problems) == ["webhook"]


def test_the_secret_is_the_configured_text_or_the_derived_one_in_hex() -> None:
    assert secret_text("mine", b"\x01\xff") == "mine"
    assert secret_text(None, b"\x01\xff") == secret_text("", b"\x01\xff") == "01ff"


def test_a_lease_shorter_than_a_try_is_refused() -> None:
    with pytest.raises(ValueError, match="lease_s"):
        DeliveryTimes(timeout_s=30, lease_s=30)
