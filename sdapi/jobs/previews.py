"""Small pictures of jobs that are being drawn, made only when somebody looks."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from PIL import Image

from sdapi.engine.base import Engine

from .board import JobBoard, Preview

_log = logging.getLogger(__name__)

_LONGEST_SIDE_PX = 256
_JPEG_QUALITY = 80


class Previews:
    """However many look at a job, the engine makes at most one picture of it per interval; all get the last one."""

    def __init__(
        self,
        *,
        engine: Engine,
        board: JobBoard,
        interval_s: float = 1.0,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Who has waited `timeout_s` for a step gets the last picture there was, if any."""
        self._engine = engine
        self._board = board
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._being_made: dict[int, asyncio.Task[None]] = {}

    async def jpeg(self, job_id: int) -> bytes | None:
        """What the job is becoming, at most 256 px long; None before its first step, and for one that doesn't run in this process."""
        if self._board.progress(job_id) is None:
            return None
        kept = self._board.preview(job_id)
        if kept is None or self._clock() - kept.made_at_s >= self._interval_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    # Shared by all who look, so nobody's leaving may end it.
                    await asyncio.shield(self._making(job_id))
            kept = self._board.preview(job_id)
        return None if kept is None else kept.jpeg

    def _making(self, job_id: int) -> asyncio.Task[None]:
        making = self._being_made.get(job_id)
        if making is None:
            # Ends without being cancelled: the engine answers at the next step, when the job ends, or when it stops itself.
            making = asyncio.create_task(self._make(job_id), name=f"preview-{job_id}")
            self._being_made[job_id] = making
            making.add_done_callback(lambda _: self._being_made.pop(job_id))
        return making

    async def _make(self, job_id: int) -> None:
        try:
            image = await self._engine.preview(job_id)
            if image is not None:
                jpeg = await asyncio.to_thread(_small_jpeg, image)
                self._board.keep_preview(job_id, Preview(jpeg, self._clock()))
        except Exception:  # noqa: BLE001 - looking may never be worse than seeing nothing
            _log.exception("a preview failed", extra={"job_ids": [job_id]})


def _small_jpeg(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE_PX, _LONGEST_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
