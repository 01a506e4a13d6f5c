"""Pictures sent as files of a form and as base64 in JSON: uploads a second, and what the server takes of memory for many at once."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from PIL import Image

from .record import tell
from .server import BenchmarkFailed, RunningServer, scratch_folder, serving
from .table import Table

_PATH = "/api/v1/enterprise/upload_image"
_AT_ONCE = 12
_ROUNDS = 3
_SIDE_PX = 1650
"""Of noise, which no format makes smaller: 8 MB."""
_SETTLES_S = 0.5
_LOOK_S = 0.005
_BOUNDARY = "cut-here-and-nowhere-else"
_SETTINGS: Mapping[str, str] = {"SDAPI_REPEATS_PER_30_S": "0"}


@dataclass(frozen=True)
class _Body:
    content_type: str
    data: bytes


@dataclass
class _Found:
    """What one way of sending came to."""

    seconds: list[float] = field(default_factory=list)
    """For all pictures of a round."""
    waiting_bytes: int = 0
    """Beyond those of the idle server, while the last bytes of all bodies are still to come."""
    peak_bytes: int = 0
    """Beyond those of the idle server, at most."""


def measure(at_once: int = _AT_ONCE, rounds: int = _ROUNDS, side_px: int = _SIDE_PX) -> Table:
    """Each way on a server of its own, which has kept one picture before."""
    picture = _a_picture(side_px)
    found = {name: _measure(body, at_once, rounds) for name, body in _bodies(picture).items()}
    per_s = {name: at_once / statistics.median(one.seconds) for name, one in found.items()}
    return Table(
        f"{at_once} uploads of {len(picture) / 1e6:.1f} MB at once",
        tuple(found),
        (
            ("uploads a second", *(f"{value:.1f}" for value in per_s.values())),
            ("memory while all are but the last bytes there, MB", *(f"{one.waiting_bytes / 1e6:.0f}" for one in found.values())),
            ("memory at most, MB", *(f"{one.peak_bytes / 1e6:.0f}" for one in found.values())),
        ),
        note=f"Kept by upload_image, which decodes and encodes them, {rounds} rounds, the median; the client is on the same machine. "
        "Memory of the server's process beyond what it has when it is idle.",
        figures={
            name: {
                "uploads_per_s": round(per_s[name], 2),
                "waiting_bytes": one.waiting_bytes,
                "peak_bytes": one.peak_bytes,
                "round_s": [round(seconds, 3) for seconds in one.seconds],
            }
            for name, one in found.items()
        }
        | {"at_once": at_once, "picture_bytes": len(picture)},
    )


def _a_picture(side_px: int) -> bytes:
    noise = random.Random(0).randbytes(3 * side_px * side_px)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side_px, side_px), noise).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _bodies(picture: bytes) -> Mapping[str, _Body]:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="base64_image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    form = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    text = json.dumps({"base64_image": base64.b64encode(picture).decode()})
    return {
        "as a file": _Body(f"multipart/form-data; boundary={_BOUNDARY}", form),
        "as base64": _Body("application/json", text.encode()),
    }


def _measure(body: _Body, at_once: int, rounds: int) -> _Found:
    found = _Found()
    with scratch_folder() as folder, serving(folder, settings=_SETTINGS) as server:
        _send(server, body)
        time.sleep(_SETTLES_S)
        idle_bytes = server.resident_bytes()
        with _watched(server) as sizes:
            found.waiting_bytes = _waiting_bytes(server, body, at_once) - idle_bytes
            with ThreadPoolExecutor(at_once) as threads:
                for _ in range(rounds):
                    started = time.perf_counter()
                    for sent in [threads.submit(_send, server, body) for _ in range(at_once)]:
                        sent.result()
                    found.seconds.append(time.perf_counter() - started)
        found.peak_bytes = max(sizes) - idle_bytes
    return found


def _send(server: RunningServer, body: _Body) -> None:
    """Raises BenchmarkFailed where the picture is not kept."""
    with server.client() as client:
        answer = client.post(_PATH, content=body.data, headers={"Content-Type": body.content_type}).json()
    if answer["status"] != "success":
        raise BenchmarkFailed(f"not kept: {answer}")


def _waiting_bytes(server: RunningServer, body: _Body, at_once: int) -> int:
    """Memory while so many clients have sent all but the last bytes. They hang up then."""
    with server.client() as client, ExitStack() as connections:
        key = client.headers["X-API-KEY"]
        head = f"POST {_PATH} HTTP/1.1\r\nHost: here\r\nX-API-KEY: {key}\r\nContent-Type: {body.content_type}\r\n"
        for _ in range(at_once):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(f"{head}Content-Length: {len(body.data)}\r\n\r\n".encode() + body.data[:-10])
        time.sleep(_SETTLES_S)
        return server.resident_bytes()


@contextmanager
def _watched(server: RunningServer) -> Iterator[list[int]]:
    """The sizes the process has while the context lasts; looked at often, because what is freed at once is a peak, too."""
    sizes = [server.resident_bytes()]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            sizes.append(server.resident_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield sizes
    finally:
        ended.set()
        looking.join()


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    tell("uploads", measure())


if __name__ == "__main__":
    main()
