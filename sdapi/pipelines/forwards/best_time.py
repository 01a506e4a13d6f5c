"""How long something takes on a device, for choices that are made by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_RUNS = 5


def best_seconds(run: Callable[[], object], *, device: torch.device) -> float:
    """What it takes there: the best of some runs, after one in which libraries load their kernels."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    best_s = float("inf")
    for _ in range(_RUNS):
        wait()
        began_s = time.perf_counter()
        run()
        wait()
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s
