"""The server as a process: first start, kill -9 in mid-drawing, SIGTERM, and what it refuses to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from .serving import Served, free_port, served

LONG = {"prompt": "a red circle on a blue background", "width": 256, "height": 256, "num_inference_steps": 51, "seed": 3}


def post(server: Served, path: str, body: dict[str, object], key: str | None = None) -> dict[str, Any]:
    response = httpx.post(server.url + path, json=body, headers={"X-API-KEY": key} if key else {}, timeout=60)
    answer: dict[str, Any] = response.json()
    return answer


def until_steps(server: Served, job_id: int, key: str, steps: int) -> None:
    """Return when the job has done so many steps; it must be long enough to be caught at it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = httpx.get(f"{server.url}/jobs/{job_id}", headers={"X-API-KEY": key}, timeout=10).json()
        assert seen["state"] in ("queued", "running"), seen
        if int(seen.get("step") or 0) >= steps:
            return
        time.sleep(0.02)
    raise AssertionError(seen)


def until_success(server: Served, job_id: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = post(server, "/sd/fetch", {"id": job_id})
        if answer["status"] == "success":
            return answer
        time.sleep(0.1)
    raise AssertionError(answer)


def test_a_job_survives_kill_9_in_the_middle_of_its_drawing(tmp_path: Path) -> None:
    with served(tmp_path, SDAPI_SYNC_WAIT_S="0") as first:
        key = first.key
        job_id = post(first, "/sd/txt2img", {**LONG, "samples": 4}, key)["id"]
        until_steps(first, job_id, key, 3)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with served(tmp_path) as second:
        assert "sd_" not in second.output, "only the first start prints a key"
        answer = until_success(second, job_id)
        assert len(answer["output"]) == 4
        assert httpx.get(answer["output"][0].replace(first.url, second.url)).headers["content-type"] == "image/png"


def test_sigterm_lets_a_running_picture_finish_and_exits_in_time(tmp_path: Path) -> None:
    with served(tmp_path, SDAPI_SYNC_WAIT_S="0") as server:
        key = server.key
        job_id = post(server, "/sd/txt2img", LONG, key)["id"]
        until_steps(server, job_id, key, 1)
        server.process.terminate()
        server.process.wait(timeout=30)
    with served(tmp_path) as again:
        assert post(again, "/sd/fetch", {"id": job_id})["status"] == "success"


def test_logs_are_json_lines_with_job_ids_and_without_keys_or_prompts(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        key = server.key
        answer = post(server, "/sd/txt2img", {**LONG, "prompt": "zebra crossing", "width": 64, "height": 64, "key": key}, key)
        httpx.get(f"{server.url}/sd/fetch", params={"id": answer["id"], "key": key})
        httpx.get(f"{server.url}/sd/fetch", params={"id": 1, "key": "sd_wrong"})
    text = (tmp_path / "err.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line.get("job_ids") == [answer["id"]] for line in lines)
    assert any(line.get("path") == "/sd/fetch" and line.get("status") == 200 for line in lines)
    for secret in (key, "zebra", "sd_wrong"):
        assert secret not in text


def test_the_api_answers_before_torch_is_imported(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        assert post(server, "/sd/fetch", {"id": 1})["message"] == "Id not found"
        maps = Path(f"/proc/{server.process.pid}/maps")
        assert "libtorch" not in maps.read_text()
        drawn = post(server, "/sd/txt2img", {**LONG, "width": 64, "height": 64, "num_inference_steps": 2}, server.key)
        assert drawn["status"] == "success"
        assert "libtorch" in maps.read_text(), "the check can fail"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curl_sample_works_with_only_host_and_key_changed(tmp_path: Path) -> None:
    body = """{
"model_id": "midjourney",
"prompt": "a cat",
"negative_prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, from below",
"width": "512",
"height": "512",
"seed": null,
"lora_model": null,
"lora_strength": null
}"""
    with served(tmp_path, SDAPI_MODEL_ALIASES='{"midjourney": "demo"}', SDAPI_SYNC_WAIT_S="60") as server:
        command = ["curl", "-sS", "-X", "POST", "-H", f"X-API-KEY: {server.key} ", "-H", "Content-Type: application/json", "-d", body]
        answer = subprocess.run([*command, f"{server.url}/sd/txt2img"], capture_output=True, text=True, check=True).stdout
        assert '"status":"success"' in answer
        fetched = subprocess.run(
            ["curl", "-sS", "-X", "POST", "-H", "Content-Type: application/json", "-d", '{"id": 30588303}', f"{server.url}/sd/fetch"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert '"status":"error"' in fetched


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SDAPI_") and name not in ("HOST", "PORT")}
    return subprocess.run(
        [sys.executable, "-m", "sdapi.cli", *arguments],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_refuses_a_public_address_while_there_is_no_key(tmp_path: Path) -> None:
    refused = run(tmp_path, "serve", "--host", "0.0.0.0", "--port", str(free_port()))
    assert refused.returncode != 0
    assert "sdapi keys create" in refused.stderr


def test_keys_are_created_listed_and_revoked_and_shown_once(tmp_path: Path) -> None:
    key = run(tmp_path, "keys", "create", "alice").stdout.strip()
    listed = run(tmp_path, "keys", "list").stdout
    assert "alice" in listed
    assert key not in listed
    assert key[:8] in listed
    assert key.encode() not in (tmp_path / "data" / "sdapi.sqlite3").read_bytes(), "stored hashed"
    assert run(tmp_path, "keys", "revoke", key[:8]).returncode == 0
    assert "revoked" in run(tmp_path, "keys", "list").stdout
    assert run(tmp_path, "keys", "revoke", "nobody").returncode != 0


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    wrong = run(tmp_path, "serve", SDAPI_SYNC_WAIT_S="soon")
    assert wrong.returncode != 0
    assert "SDAPI_SYNC_WAIT_S" in wrong.stderr


def test_settings_come_from_a_dotenv_file_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HOST=0.0.0.0\nSDAPI_DATA_DIR=elsewhere\n")
    refused = run(tmp_path, "serve")
    assert "0.0.0.0" in refused.stderr
    assert (tmp_path / "elsewhere" / "sdapi.sqlite3").exists()


def test_the_doctor_draws_and_names_what_is_missing(tmp_path: Path) -> None:
    sick = run(tmp_path, "doctor")
    assert sick.returncode == 1
    assert "FAIL database" in sick.stdout
    assert "ok   drawing" in sick.stdout
    run(tmp_path, "keys", "create")
    healthy = run(tmp_path, "doctor")
    assert healthy.returncode == 0, healthy.stdout
    broken = run(tmp_path, "doctor", SDAPI_DEFAULT_MODEL="gone")
    assert "FAIL models" in broken.stdout
