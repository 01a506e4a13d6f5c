"""Webhooks and a sender that is killed while it sends them."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import WebhookRow
from sdapi.webhooks import enqueue, sign
from tests.webhook_receiver import Call, receiving

from .webhook_process import SECRET

ROOT = Path(__file__).parents[2]
COUNT = 200


@asynccontextmanager
async def sender_process(database_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The sender in a process of its own, killed on exit, without a chance to say anything."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.faults.webhook_process", database_url, cwd=ROOT)
    try:
        yield process
    finally:
        assert process.returncode is None, "it ran until it was killed"
        process.kill()
        await process.wait()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(45):
        while not holds():
            await asyncio.sleep(0.005)


async def test_no_webhook_is_lost_when_its_sender_is_killed(database_url: str, sessions: async_sessionmaker[AsyncSession]) -> None:
    tries: Counter[str] = Counter()

    def fails_twice(call: Call) -> int:
        tries[call.delivery] += 1
        return 500 if tries[call.delivery] <= 2 else 200

    async with receiving(fails_twice) as receiver:
        async with sessions.begin() as session:
            now = datetime.now(UTC)
            written = {enqueue(session, url=receiver.url(), body={"id": number}, now=now) for number in range(COUNT)}
        for kill_after in (COUNT // 2, COUNT * 3 // 2):
            async with sender_process(database_url):
                await until(lambda kill_after=kill_after: len(receiver.calls) >= kill_after)  # type: ignore[misc]
        assert any(tries[delivery] < 3 for delivery in written), "killed before everything was delivered"
        async with sender_process(database_url):
            await until(lambda: all(tries[delivery] >= 3 for delivery in written))
            await until_none_waits(sessions)

    assert set(tries) == written, "ids are stable"
    bodies: defaultdict[str, set[bytes]] = defaultdict(set)
    for call in receiver.calls:
        bodies[call.delivery].add(call.body)
        assert call.headers["x-sdapi-signature"] == sign(SECRET.encode(), call.body)
    assert all(len(seen) == 1 for seen in bodies.values())
    assert {body for seen in bodies.values() for body in seen} == {b'{"id":%d}' % number for number in range(COUNT)}


async def until_none_waits(sessions: async_sessionmaker[AsyncSession]) -> None:
    """Return when the outbox knows of every delivery that it has arrived."""
    async with asyncio.timeout(45):
        while True:
            async with sessions() as session:
                arrived = await session.scalar(select(func.count()).where(WebhookRow.delivered_at.is_not(None)))
            if arrived == COUNT:
                return
            await asyncio.sleep(0.02)
