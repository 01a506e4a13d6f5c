"""`sdapi serve` as a process of its own on a free port, to be killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass
class Served:
    """A server process that answers."""

    process: subprocess.Popen[str]
    url: str
    output: str
    """What it printed before it listened."""

    @property
    def key(self) -> str:
        found = re.search(r"sd_[\w-]+", self.output)
        assert found, self.output
        return found.group()


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(folder: Path, **environment: str) -> Iterator[Served]:
    """`sdapi serve` in `folder`, which keeps its data from one start to the next; killed at the end if it still runs."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SDAPI_")}
    out = folder / "out.log"
    with out.open("w") as stdout, (folder / "err.log").open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "sdapi.cli", "serve", "--port", str(port)],
            cwd=folder,
            env={**clean, "SDAPI_TORCH_THREADS": "1", "SDAPI_HEARTBEAT_S": "0.3", "SDAPI_STALE_AFTER_S": "1.5", **environment},
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _await_answer(process, url)
            yield Served(process, url, out.read_text())
        finally:
            process.kill()
            process.wait()


def _await_answer(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/healthz", timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the server did not answer (exit code {process.poll()})")
