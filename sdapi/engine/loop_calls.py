"""From the device thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def call(event_loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    """Have the function called on the event loop; in vain when that has closed, because then nobody is waiting."""
    with suppress(RuntimeError):
        event_loop.call_soon_threadsafe(function, *args)


def settle(answer: asyncio.Future[Any], value: object) -> None:
    """Give the answer, unless nobody waits for it any more. On the event loop, like the next one."""
    if not answer.done():
        answer.set_result(value)


def refuse(answer: asyncio.Future[Any], error: Exception) -> None:
    """Tell what went wrong in its place."""
    answer.set_exception(error)
