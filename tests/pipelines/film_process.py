"""A process that draws and encodes twenty films, and writes what memory it takes after each: JSON, a list of bytes."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from sdapi.domain.generation import Text2Video
from sdapi.mp4 import encode_mp4
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket

from .device import open_device
from .memory_process import resident_bytes


def main(models_dir: Path) -> None:
    resident = []
    with open_device(models_dir, cache_bytes=2**30) as device:
        for number in range(20):
            ended = threading.Event()
            results: list[Result] = []

            def done(result: Result, results: list[Result] = results, ended: threading.Event = ended) -> None:
                results.append(result)
                ended.set()

            request = Text2Video.model_validate(
                {"checkpoint": "modelscope", "prompt": "a cat", "width": 64, "height": 64, "seed": number, "steps": 1, "frames": 5}
            )
            device.loop.submit(Ticket(number, request, None, threading.Event(), lambda _: None, done))
            ended.wait()
            assert isinstance(results[0], Pictures), results
            assert results[0].film is not None
            encode_mp4(results[0].film, None)
            results.clear()
            time.sleep(0.05)  # the loop's last look around comes after the last answer
            resident.append(resident_bytes())
    sys.stdout.write(json.dumps(resident))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
