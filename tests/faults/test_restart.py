"""An administrator restarts or updates the running server: one process from beginning to end, and no job is lost."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from .serving import Served, served
from .test_processes import post, until_steps, until_success

BASE = "/api/v1/enterprise"
KEY = "sd_administrator_of_this_test"


def jobs_of(server: Served, count: int) -> list[int]:
    """Requests that take long enough to be interrupted."""
    body: dict[str, object] = {"prompt": "a red circle on a blue background", "width": 192, "height": 192, "num_inference_steps": 25}
    return [post(server, "/sd/txt2img", {**body, "seed": seed}, KEY)["id"] for seed in range(count)]


def first_job(server: Served) -> int:
    """The id of the first request, once it was taken."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if jobs := httpx.get(f"{server.url}/jobs", headers={"X-API-KEY": KEY}, timeout=10).json()["jobs"]:
            return int(jobs[0]["id"])
        time.sleep(0.02)
    raise AssertionError("no request came")


def started_at(server: Served) -> str:
    return str(post(server, f"{BASE}/system_details", {"key": KEY})["started_at"])


def until_started_after(server: Served, before: str) -> None:
    """Return when the server answers and its services were opened after that moment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if started_at(server) > before:
                return
        except httpx.TransportError:
            pass  # it is between its two lives
        time.sleep(0.05)
    raise AssertionError("the server did not come back")


def test_a_restart_keeps_process_address_and_queued_jobs_and_repeats_what_was_running(tmp_path: Path) -> None:
    settings = {"SDAPI_API_KEY": KEY, "SDAPI_SYNC_WAIT_S": "0", "SDAPI_STOP_GRACE_S": "0", "SDAPI_MAX_ROWS": "1"}
    with served(tmp_path, **settings) as server:
        before = started_at(server)
        jobs = jobs_of(server, 4)
        until_steps(server, jobs[0], KEY, 1)
        assert post(server, f"{BASE}/restart_server", {"key": KEY}) == {"status": "success", "message": "server restarting"}
        until_started_after(server, before)
        assert server.process.poll() is None, "it is the very same process, so a supervisor notices nothing"
        for job_id in jobs:
            until_success(server, job_id)
        server.process.terminate()
        assert server.process.wait(timeout=30) == -signal.SIGTERM, "and it still ends when it is asked to"


def test_a_call_that_waits_for_its_picture_is_answered_processing_before_the_restart(tmp_path: Path) -> None:
    with served(tmp_path, SDAPI_API_KEY=KEY, SDAPI_STOP_GRACE_S="0") as server, ThreadPoolExecutor(1) as other:
        before = started_at(server)
        body: dict[str, object] = {"prompt": "a cat", "width": 256, "height": 256, "num_inference_steps": 51, "samples": 4}
        waiting = other.submit(post, server, "/api/v4/dreambooth", {**body, "model_id": "demo"}, KEY)
        until_steps(server, first_job(server), KEY, 1)
        post(server, f"{BASE}/restart_server", {"key": KEY})
        answer = waiting.result(timeout=30)
        assert answer["status"] == "processing", answer
        until_started_after(server, before)
        assert post(server, answer["fetch_result"].removeprefix(server.url), {"key": KEY})["id"] == answer["id"]


def test_a_port_that_was_chosen_freely_stays_the_same(tmp_path: Path) -> None:
    with (tmp_path / "err.log").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "sdapi.cli", "serve", "--port", "0"],
            cwd=tmp_path,
            env={**os.environ, "SDAPI_API_KEY": KEY},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", (tmp_path / "err.log").read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server = Served(process, found[1], "")
        before = started_at(server)
        post(server, f"{BASE}/restart_server", {"key": KEY})
        until_started_after(server, before)
    finally:
        process.kill()
        process.wait()


def test_an_update_runs_the_command_and_restarts(tmp_path: Path) -> None:
    left = tmp_path / "left by the update.txt"
    command = shlex.join([sys.executable, "-c", f"import pathlib; pathlib.Path({str(left)!r}).write_text('$HOME'); print('fetched all')"])
    with served(tmp_path, SDAPI_API_KEY=KEY, SDAPI_UPDATE_COMMAND=command) as server:
        before = started_at(server)
        assert post(server, f"{BASE}/images/update", {"key": KEY}) == {"status": "success", "message": "server updating"}
        until_started_after(server, before)
        assert left.read_text() == "$HOME", "no shell has looked at it"
        assert "fetched all" in (tmp_path / "err.log").read_text()


def test_an_update_that_fails_leaves_the_server_as_it_is_and_says_so(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-c", "print('no network'); raise SystemExit(3)"])
    with served(tmp_path, SDAPI_API_KEY=KEY, SDAPI_UPDATE_COMMAND=command) as server:
        before = started_at(server)
        post(server, f"{BASE}/update_server", {"key": KEY})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            details = post(server, f"{BASE}/system_details", {"key": KEY})
            if details["update"] != "under way":
                break
            time.sleep(0.05)
        assert details["update"] == "the update command ended with exit code 3"
        assert details["started_at"] == before
        assert "no network" in (tmp_path / "err.log").read_text()
