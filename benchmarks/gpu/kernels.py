"""Where a device's time goes: torch's profiler over some pictures drawn together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

_LISTED = 60
_NAME_CHARS = 70


@dataclass(frozen=True)
class Kernel:
    """All calls of one kernel, or on a CPU of one operation."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Profiled:
    """What ran while it was looked at."""

    wall_s: float
    kernels: tuple[Kernel, ...]
    """The longest first."""
    listing: str
    """The profiler's own table."""

    @property
    def busy(self) -> float:
        """Share of the time when the device had something to do; above 1 where several kernels run at once."""
        return sum(one.seconds for one in self.kernels) / self.wall_s


def profiled(work: Callable[[], object]) -> Profiled:
    """Look at `work`, on whatever threads it is done."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    # Without this the operations of the loop's own thread would not be seen; the device's kernels always are.
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # noqa: SLF001 - there is no public name yet
    with profile(activities=activities, experimental_config=everywhere) as looked:
        started = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
    device = "CUDA" if on_gpu else "CPU"
    averages = looked.key_averages()
    kernels = [
        Kernel(one.key[:_NAME_CHARS], (one.self_device_time_total if on_gpu else one.self_cpu_time_total) / 1e6, one.count)
        for one in averages
        if one.device_type.name == device
    ]
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    listing = averages.table(sort_by=order, row_limit=_LISTED, max_name_column_width=_NAME_CHARS)
    return Profiled(wall_s, tuple(sorted(kernels, key=lambda one: one.seconds, reverse=True)), listing)
