"""A process that sends webhooks from the database it is given and does nothing else, to be killed."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

from sdapi.db.session import open_database
from sdapi.webhooks import DeliveryTimes, WebhookSender, open_webhook_client

SECRET = "known to the receiver"
TIMES = DeliveryTimes(timeout_s=1.0, lease_s=1.2, first_pause_s=0.2, poll_s=0.05)


async def send(database_url: str) -> None:
    async with open_database(database_url, pool_size=5) as sessions, open_webhook_client(allow_private=True) as client:
        sender = WebhookSender(
            sessions=sessions, client=client, secret=SECRET.encode(), now=lambda: datetime.now(UTC), times=TIMES, max_parallel_per_host=16
        )
        sender.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1]))
