"""A process that switches models, then LoRAs, then enlarges pictures, and writes what memory it takes after each cycle, as JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from sdapi.pipelines.scheduling.tickets import Pictures

from .device import Device, Wish, open_device
from .drawing import a_request, demo_parts


def resident_bytes() -> int:
    """What is left once everything that can be given back has been."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    size: int = psutil.Process().memory_info().rss
    return size


def cycle(device: Device, asked: Sequence[dict[str, object]]) -> int:
    """Draw with each of them once."""
    wishes = [Wish(a_request(steps=1, **changes)) for changes in asked]
    device.draw(*wishes)
    assert all(isinstance(wish.result, Pictures) for wish in wishes), wishes
    time.sleep(0.05)  # the loop's last look around comes after the last answer
    return resident_bytes()


def main(models_dir: Path) -> None:
    checkpoints: list[dict[str, object]] = [{"checkpoint": path.name} for path in sorted((models_dir / "checkpoints").iterdir())]
    loras: list[dict[str, object]] = [{"loras": [{"id": path.stem}]} for path in sorted((models_dir / "loras").iterdir())]
    enlarged: list[dict[str, object]] = [
        {"upscale": 2 + number % 2, "upscaler": "demo-x2", "width": 64 + 8 * number} for number in range(5)
    ]
    told = {}
    # Nothing fits beside the model in use; then no second LoRA beside the model; then everything.
    beside_model_bytes = demo_parts().bytes + 3 * 2**20
    for what, asked, cycles, cache_bytes in (
        ("checkpoints", checkpoints, 12, 1),
        ("loras", loras, 20, beside_model_bytes),
        ("upscales", enlarged, 12, 2**30),
    ):
        with open_device(models_dir, cache_bytes=cache_bytes) as device:
            told[what] = [cycle(device, asked) for _ in range(cycles)]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
