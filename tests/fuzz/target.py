"""The server under fire: a process of its own, which is told apart from one that merely survives by looking at its log afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.faults.serving import Served

TIMEOUT_S = 30
"""A call that takes longer hangs."""
_CLEARED_EVERY = 25
_KEPT_IDS = 50


@dataclass
class Target:
    """Sends requests and keeps the queue short."""

    server: Served
    folder: Path
    key: str
    session: requests.Session
    ids: list[int] = field(default_factory=list)
    """Of jobs there are: random ids would find none."""
    sent: int = 0

    def note(self, answer: bytes) -> None:
        """Remember the job an answer speaks of; now and then clear the queue, so that accepted requests don't pile up."""
        self.sent += 1
        job_id = _id_in(answer)
        if job_id is not None:
            self.ids = [*self.ids, job_id][-_KEPT_IDS:]
        if self.sent % _CLEARED_EVERY == 0:
            url = f"{self.server.url}/api/v1/enterprise/clear_queue"
            cleared = self.session.post(url, json={}, headers={"X-API-KEY": self.key}, timeout=TIMEOUT_S)
            assert cleared.json()["status"] == "success", cleared.text

    def problem(self) -> str | None:
        """What is wrong with the server, or None."""
        if self.server.process.poll() is not None:
            return f"the server ended with {self.server.process.returncode}"
        health = self.session.get(f"{self.server.url}/healthz", timeout=TIMEOUT_S)
        if health.status_code != 200:
            return health.text
        logged = (self.folder / "err.log").read_text(errors="replace").splitlines()
        return next((line for line in logged if "Traceback" in line), None)


def _id_in(answer: bytes) -> int | None:
    try:
        body = json.loads(answer)
    except ValueError:
        return None  # a picture, or metrics
    found = body.get("id") if isinstance(body, dict) and body.get("status") in ("success", "processing") else None
    return found if isinstance(found, int) else None
