"""A long call taken step by step: it has a thread of its own, which runs only while somebody waits for its next step.

So a library's loop that knows no way to be left and entered again can take turns with others: of the two threads never more than one
runs, and nothing that both use needs a lock. (A coroutine on one thread would not do: torch keeps its modes, such as `no_grad`, per
thread, and the library has some of them on while it is left.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")

Pause = Callable[[], None]
"""Ends a step: returns when the next is wanted. Raises `_Closed` when none will be, which the call must let through."""


class _Closed(BaseException):
    """Nobody wants the rest. Not an Exception, so that no library takes it for an error of its own."""


class SteppedCall(Generic[ResultT]):
    """One call, made once. All methods belong to one thread, that of whoever wants the steps."""

    def __init__(self, call: Callable[[Pause], ResultT], *, name: str) -> None:
        """`call` gets the function that ends a step; nothing of it runs before `advance`. `name` is the thread's."""
        self._call: Callable[[Pause], ResultT] | None = call
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._closing = False
        self._result: ResultT | None = None
        self._error: BaseException | None = None
        # A daemon, so that a hung driver can't keep a process alive that was asked to stop.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether there are no more steps."""
        return self._ended.is_set()

    def advance(self) -> None:
        """Run to the end of the next step, or of the call. Raises what the call raised, once; does nothing when it has ended."""
        if self.ended:
            return
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._back.acquire()
        if self._ended.is_set():
            self._thread.join()
            error, self._error = self._error, None
            if error is not None:
                raise error

    def result(self) -> ResultT:
        """What the call returned, all steps that are left taken first. Raises what the call raised."""
        while not self._ended.is_set():
            self.advance()
        if self._result is None:
            raise RuntimeError("the call has no result")
        return self._result

    def close(self) -> None:
        """Give up the steps that are left; the thread has ended when this returns. A call that has ended keeps its result."""
        self._closing = True
        if self._thread.ident is None:
            self._ended.set()
            self._call = None
        elif not self._ended.is_set():
            self._go.release()
            self._back.acquire()
            self._thread.join()
            self._error = None

    def _run(self) -> None:
        self._go.acquire()
        try:
            if self._call is not None and not self._closing:
                self._result = self._call(self._pause)
        except _Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits for the step
            self._error = error
        finally:
            self._call = None  # what the call holds should not live as long as its result
            self._ended.set()
            self._back.release()

    def _pause(self) -> None:
        self._back.release()
        self._go.acquire()
        if self._closing:
            raise _Closed
