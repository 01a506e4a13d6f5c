"""The last stage: finished rows become pictures, either between two steps or beside them.

On a CPU a second team of threads slows the first down by more than it does itself, so there it is between; a CUDA device works on both.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from PIL import Image

from sdapi.pipelines.memory.shortage import is_out_of_memory

PieceT = TypeVar("PieceT")

Decode = Callable[[Sequence[PieceT]], list[Image.Image]]
"""The pictures of all pieces, in order. Raises where one of them can't be decoded."""


@dataclass(frozen=True)
class Sheet(Generic[PieceT]):
    """What was decoded at once."""

    results: tuple[tuple[PieceT, Image.Image | Exception], ...]
    """In the order in which they were given; what went wrong with one is its own."""
    seconds: float | None
    """What it took; None where something went wrong, which says nothing about the device."""
    ran_out_of_memory: bool = False
    """Whether the device had no memory for all of it at once."""


class DecodingStage(Protocol[PieceT]):
    """For the thread that draws."""

    @property
    def is_busy(self) -> bool:
        """Whether what is given now would wait for what was given before."""
        ...

    @property
    def has_ended_any(self) -> bool:
        """Whether there is something to take."""
        ...

    def begin(self, pieces: Sequence[PieceT], decode: Decode[PieceT]) -> None:
        """Decode these together; those that fail together are tried one by one."""
        ...

    def take(self) -> list[Sheet[PieceT]]:
        """What has been decoded since the last call, in the order in which it was given."""
        ...

    def close(self) -> None:
        """End when what is being decoded is done; the rest is given up."""
        ...


class InlineDecoding(Generic[PieceT]):
    """See DecodingStage: `begin` returns when it is done."""

    is_busy = False

    def __init__(self, release: Callable[[], None] = lambda: None) -> None:
        """`release` gives back to the device what is kept for later use; called before what ran out of memory is tried again."""
        self._release = release
        self._ended: list[Sheet[PieceT]] = []

    @property
    def has_ended_any(self) -> bool:
        """See DecodingStage."""
        return bool(self._ended)

    def begin(self, pieces: Sequence[PieceT], decode: Decode[PieceT]) -> None:
        """See DecodingStage."""
        self._ended.append(_sheet(pieces, decode, self._release))

    def take(self) -> list[Sheet[PieceT]]:
        """See DecodingStage."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """See DecodingStage."""


class ThreadedDecoding(Generic[PieceT]):
    """See DecodingStage: on a thread of its own."""

    def __init__(
        self,
        wake: Callable[[], None],
        beside: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is called on the stage's thread when there is something to take.

        `beside` is called by `begin`, and what it gives is entered on the stage's thread: a device's stream. `release` is called there,
        too, before what ran out of memory is tried again, and gives back to the device what is kept for later use.
        """
        self._wake = wake
        self._beside = beside
        self._release = release
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sdapi-decode")
        self._ended: deque[Sheet[PieceT]] = deque()
        self._given = 0
        self._taken = 0

    @property
    def is_busy(self) -> bool:
        """See DecodingStage."""
        return self._given - self._taken > len(self._ended)

    @property
    def has_ended_any(self) -> bool:
        """See DecodingStage."""
        return bool(self._ended)

    def begin(self, pieces: Sequence[PieceT], decode: Decode[PieceT]) -> None:
        """See DecodingStage."""
        self._given += 1
        self._thread.submit(self._run, tuple(pieces), decode, self._beside())

    def take(self) -> list[Sheet[PieceT]]:
        """See DecodingStage."""
        # What comes meanwhile is taken the next time: `wake` has been called for it.
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        self._taken += len(ended)
        return ended

    def close(self) -> None:
        """See DecodingStage."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, pieces: Sequence[PieceT], decode: Decode[PieceT], beside: AbstractContextManager[None]) -> None:
        try:
            with beside:
                sheet = _sheet(pieces, decode, self._release)
        except Exception as error:  # noqa: BLE001 - a device that fails at the end of its work fails what it worked on
            sheet = Sheet(tuple((piece, error) for piece in pieces), None)
        self._ended.append(sheet)
        self._wake()


def _sheet(pieces: Sequence[PieceT], decode: Decode[PieceT], release: Callable[[], None]) -> Sheet[PieceT]:
    started = time.perf_counter()
    try:
        return Sheet(tuple(zip(pieces, decode(pieces), strict=True)), time.perf_counter() - started)
    except Exception as error:  # noqa: BLE001 - out of memory, kernel errors and overflows belong to the pictures they befall
        if len(pieces) == 1:
            return Sheet(((pieces[0], error),), None)
        ran_out = is_out_of_memory(error)
    # Not where the error is still known: it keeps the tensors of the decode that failed.
    if ran_out:
        release()
    return Sheet(tuple(_sheet([piece], decode, release).results[0] for piece in pieces), None, ran_out)
