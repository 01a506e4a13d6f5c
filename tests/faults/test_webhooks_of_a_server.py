"""Webhooks of a real server that is killed while they are being delivered to a receiver that fails at first."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import httpx

from tests.fixtures.translator import damage, install
from tests.webhook_receiver import Call, receiving

from .serving import served

_JOBS = 200
_KEY = "the-key-of-this-test"
BODY = {"model_id": "demo", "prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 1}


async def test_every_one_of_200_ended_jobs_reaches_a_receiver_that_fails_twice_although_the_server_is_killed(tmp_path: Path) -> None:
    tries: dict[str, int] = defaultdict(int)

    def answer(call: Call) -> int:
        tries[call.delivery] += 1
        return 500 if tries[call.delivery] <= 2 else 200

    environment = {"SDAPI_SYNC_WAIT_S": "0", "SDAPI_ALLOW_PRIVATE_URLS": "true", "SDAPI_API_KEY": _KEY}
    damage(install(tmp_path / "models"))
    ids: set[int] = set()
    async with receiving(answer) as receiver:
        with served(tmp_path, **environment) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=60, headers={"X-API-KEY": _KEY}) as client:
                for number in range(_JOBS):
                    # Half of them need a damaged model: a failure is a terminal state, too.
                    body = {
                        **BODY,
                        "seed": number,
                        "prompt": "un cercle rouge" if number % 2 else BODY["prompt"],
                        "multi_lingual": "yes",
                        "webhook": receiver.url(),
                        "track_id": number,
                    }
                    ids.add((await client.post("/api/v4/dreambooth", json=body)).json()["id"])
            async with asyncio.timeout(60):
                while len(receiver.calls) < _JOBS // 4:
                    await asyncio.sleep(0.05)
            server.process.kill()
        with served(tmp_path, **environment):
            async with asyncio.timeout(120):
                while sum(count >= 3 for count in tries.values()) < _JOBS:
                    await asyncio.sleep(0.1)

    told = defaultdict(set)
    for call in receiver.calls:
        told[json.loads(call.body)["id"]].add(call.delivery)
    assert told.keys() == ids
    assert {len(deliveries) for deliveries in told.values()} == {1}, "one id for each job's webhook, at every try"
    statuses = {json.loads(call.body)["track_id"] % 2: json.loads(call.body)["status"] for call in receiver.calls}
    assert statuses == {0: "success", 1: "failed"}
