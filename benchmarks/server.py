"""A real `sdapi serve` in a process of its own, and a client to talk to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

_KEY = "sd_benchmarks"
_STARTS_WITHIN_S = 60.0
_STOPS_WITHIN_S = 60.0
_ANSWERS_WITHIN_S = 300.0
_GIVE_UP_S = 120.0
# How the device is used may be chosen from outside; everything else is measured as it comes.
_INHERITED = frozenset({"SDAPI_DEVICE", "SDAPI_DTYPE", "SDAPI_TORCH_THREADS", "SDAPI_MAX_ROWS"})

HOLD_S = 600.0
"""A sync wait that holds every call until its picture is there."""


class BenchmarkFailed(Exception):
    """Something could not be measured; the text says what happened instead."""


class RunningServer:
    """A live server that has answered its first request."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, first_answer_s: float) -> None:
        self.url = url
        self.first_answer_s = first_answer_s
        """Seconds from the start of the process to its first answer."""
        self._process = process

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return httpx.URL(self.url).port or 80

    def client(self) -> httpx.Client:
        """A keep-alive client with a valid key; the caller closes it."""
        return httpx.Client(base_url=self.url, headers={"X-API-KEY": _KEY}, timeout=_ANSWERS_WITHIN_S, trust_env=False)

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def has_torch(self) -> bool | None:
        """Whether torch's library is mapped into the process; None where the system does not tell."""
        maps = Path("/proc") / str(self._process.pid) / "maps"
        return "libtorch" in maps.read_text() if maps.is_file() else None

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self._process.kill()
        self._process.wait()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for a server's database and pictures; servers started in it one after another find each other's jobs."""
    with tempfile.TemporaryDirectory(prefix="sdapi-bench-") as folder:
        yield Path(folder)


@contextmanager
def serving(
    folder: Path, *, sync_wait_s: float = HOLD_S, port: int | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Start a server on a free loopback port with its data in `folder`; stop it on exit. `settings` are further variables.

    Raises BenchmarkFailed when it does not start.
    """
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [_executable(), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("ab") as output:
        started = time.perf_counter()
        # In its own folder, so that no .env of the checkout is read.
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(folder, sync_wait_s) | dict(settings or {}), stdout=output, stderr=output
        )
    try:
        _await_answer(process, url, log)
        yield RunningServer(process, url, time.perf_counter() - started)
    finally:
        _end(process)


def draw(client: httpx.Client, **fields: object) -> Mapping[str, Any]:
    """POST /sd/txt2img and the answer. Raises BenchmarkFailed when it is not `success`."""
    answer = submit(client, **fields)
    if answer["status"] != "success":
        raise BenchmarkFailed(f"no picture: {answer}")
    return answer


def submit(client: httpx.Client, **fields: object) -> Mapping[str, Any]:
    """POST /sd/txt2img and the answer, `success` or `processing`. Raises BenchmarkFailed for any other."""
    response = client.post("/sd/txt2img", json={"prompt": "a red circle on a blue background", **fields})
    if response.status_code != 200 or response.json()["status"] not in ("success", "processing"):
        raise BenchmarkFailed(f"txt2img answered {response.status_code}: {response.text}")
    answer: Mapping[str, Any] = response.json()
    return answer


def job_of(client: httpx.Client, job_id: int) -> Mapping[str, Any]:
    """GET /jobs/{id}. Raises BenchmarkFailed when the job came to nothing."""
    job: Mapping[str, Any] = client.get(f"/jobs/{job_id}").raise_for_status().json()
    if job["state"] in ("failed", "cancelled"):
        raise BenchmarkFailed(f"a job was {job['state']}: {job['error']}")
    return job


def wait_until(reached: Callable[[], bool], *, look_every_s: float) -> None:
    """Return when `reached` says so. Raises BenchmarkFailed after two minutes."""
    deadline = time.monotonic() + _GIVE_UP_S
    while not reached():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"waited for {_GIVE_UP_S:.0f} s in vain")
        time.sleep(look_every_s)


def _executable() -> str:
    found = shutil.which("sdapi", path=str(Path(sys.executable).parent))
    if found is None:
        raise BenchmarkFailed("there is no `sdapi` beside this Python: install the package first")
    return found


def _environment(folder: Path, sync_wait_s: float) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SDAPI_") or name in _INHERITED}
    return inherited | {"SDAPI_DATA_DIR": str(folder / "data"), "SDAPI_API_KEY": _KEY, "SDAPI_SYNC_WAIT_S": str(sync_wait_s)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    with httpx.Client(base_url=url, trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.get("/healthz").raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.005)
            else:
                return
    raise BenchmarkFailed(f"the server did not start:\n{log.read_text()[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
