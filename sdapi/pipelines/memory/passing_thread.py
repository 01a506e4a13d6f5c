"""Work beside the device thread, on a thread that ends when there is none left.

A thread that has run one of torch's operators on the CPU keeps a team of OpenMP threads for as long as it lives. GNU's OpenMP counts
them all, and once there are more than cores its waiting threads go to sleep instead of spinning: two cores then draw 1.4 times as long
(`python -m benchmarks.overhead` shows it), though the other team does nothing. So nothing but the device thread may outlive its work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PassingThread(Executor):
    """One piece of work after another, in the order they came."""

    def __init__(self, name: str) -> None:
        """`name` is that of its threads."""
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._is_shut_down = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor. Raises RuntimeError after `shutdown`."""
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("nothing more is begun after shutdown")
            self._waiting.append((future, lambda: fn(*args, **kwargs)))
            if self._thread is None:
                # A daemon, so that a hung disk can't keep a process alive that was asked to stop.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """See Executor."""
        with self._lock:
            self._is_shut_down = True
            thread = self._thread
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for future, _ in dropped:
            future.cancel()
        if wait and thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                future, work = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future is told, whatever it was
                future.set_exception(error)
            else:
                future.set_result(result)
            # Neither the work nor what came of it may stay in memory until the next piece.
            del future, work
