"""Models that are brought into memory before anybody asks for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from sdapi.catalog import Catalog
from sdapi.domain.errors import ModelNotFound

_log = logging.getLogger(__name__)


class Preloading:
    """One model after another, beside whatever else the engine does. For use on the event loop."""

    def __init__(self, catalog: Catalog, bring: Callable[[str], Awaitable[str | None]], is_there: Callable[[str], bool]) -> None:
        """`bring` is given the id of a checkpoint, and tells why it could not be brought, or None; `is_there`: whether it is in memory."""
        self._catalog = catalog
        self._bring = bring
        self._is_there = is_there
        self._coming: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def coming(self) -> tuple[str, ...]:
        """Names that were given and have come to nothing yet, in order. One that failed is among them no more."""
        return self._coming

    def start(self, names: Sequence[str]) -> None:
        """Begin with the first; returns at once."""
        self._coming = tuple(dict.fromkeys(names))
        if self._coming:
            self._task = asyncio.get_running_loop().create_task(self._bring_all())

    async def stop(self) -> None:
        """Begin with none of the rest; return when the one at hand has ended, which is for whoever brings it to see to."""
        self._stopping = True
        if self._task is not None:
            await self._task

    async def _bring_all(self) -> None:
        try:
            # All are looked for first, so that a slip of the pen is told before the first of them has been loaded.
            found = [(name, await asyncio.to_thread(self._find, name)) for name in self._coming]
            brought: list[str] = []
            for name, model_id in found:
                if model_id is not None and not self._stopping and await self._bring_one(model_id):
                    brought.append(model_id)
                self._coming = tuple(one for one in self._coming if one != name)
            if not self._stopping and (gone := [model_id for model_id in brought if not self._is_there(model_id)]):
                _log.warning("preloaded models left again: SDAPI_MODEL_CACHE_BYTES has no room for all", extra={"models": gone})
        except Exception:  # noqa: BLE001 - nobody awaits this before the server stops
            _log.exception("models could not be preloaded")
        finally:
            self._coming = ()  # whatever went wrong, the server draws what it is asked for

    def _find(self, name: str) -> str | None:
        try:
            return self._catalog.get(name).id
        except ModelNotFound:
            _log.error("SDAPI_PRELOAD names a model that is not there", extra={"model": name})
            return None

    async def _bring_one(self, model_id: str) -> bool:
        """Whether it came."""
        started = time.monotonic()
        reason = await self._bring(model_id)
        if reason is not None:
            _log.error("a model can't be preloaded", extra={"model": model_id, "reason": reason})
        elif not self._stopping:
            _log.info("model preloaded", extra={"model": model_id, "seconds": round(time.monotonic() - started, 2)})
        return reason is None
