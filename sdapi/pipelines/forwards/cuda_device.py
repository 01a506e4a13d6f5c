"""What differs where the device works on by itself after a call has returned: measuring it, and decoding on a stream of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from sdapi.pipelines.scheduling.stopwatch import ResultT

_ON_THEIR_WAY = 2
"""Forwards the device may have been given and not finished: enough that it never waits for the next, and nobody joins behind many."""


class CudaStopwatch:
    """See Stopwatch. By events of the device, so that nothing waits for it but a loop that is too far ahead of it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._running: deque[tuple[Any, Any, Callable[[float], None]]] = deque()

    def timed(self, run: Callable[[], ResultT], told: Callable[[float], None]) -> ResultT:
        """See Stopwatch."""
        while len(self._running) >= _ON_THEIR_WAY:
            self._running[0][1].synchronize()
            self.collect()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._device)
        began.record(stream)
        result = run()
        ended.record(stream)
        self._running.append((began, ended, told))
        return result

    def collect(self) -> None:
        """See Stopwatch."""
        while self._running and self._running[0][1].query():
            began, ended, told = self._running.popleft()
            told(began.elapsed_time(ended) / 1000)


class SideStream:
    """A stream for decoding beside the steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def after_what_was_asked(self) -> AbstractContextManager[None]:
        """What is asked of the device within the context, on whatever thread, runs beside the current stream.

        But after everything that this stream has been given by the time of this call. What is computed must have been fetched from the
        device when the context ends.
        """
        ready = torch.cuda.current_stream(self._device).record_event()
        return self._on_the_side(ready)

    @contextmanager
    def _on_the_side(self, ready: Any) -> Iterator[None]:
        torch.cuda.set_device(self._device)  # every thread has a current device of its own
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            yield
            self._stream.synchronize()
