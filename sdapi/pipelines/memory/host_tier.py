"""Models that have left the device wait in host memory, as far as a budget goes: they come back from there without being read again.

A model is copied when it leaves, not when it is loaded: who has one model pays nothing, in time or in memory. Weights never change, so
the copy is kept when the model comes back, and the next time it leaves at once. Leaving has a thread of its own; loads wait for it on
theirs, so that what they need is free, and no step of another model waits for either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sdapi.pipelines.memory.host_copy import GivenUp, HostCopy, can_be_copied, layout_of, let_go, weights_of
from sdapi.pipelines.memory.passing_thread import PassingThread
from sdapi.pipelines.memory.transfers import Transfers

_log = logging.getLogger(__name__)

ModelT = TypeVar("ModelT")

Key = tuple[Hashable, str]
"""Whose model it is, and its id."""


@dataclass(frozen=True)
class Packed(Generic[ModelT]):
    """What is left of a model that leaves."""

    networks: tuple[nn.Module, ...]
    """All that have weights on the device."""
    again: Callable[[], ModelT]
    """The model, around the same networks, once they have their weights back. Must not hold on to anything else on the device."""


@runtime_checkable
class CanReturn(Protocol):
    """A model that can wait in host memory; others are loaded again."""

    def packed(self) -> Packed[Any]:
        """To be called when nobody uses it any more: what was laid on its networks is taken off, and nothing but this is used of it."""
        ...


@dataclass(eq=False)
class _Kept:
    copy: HostCopy
    version: Hashable
    packed: Packed[Any] | None
    """None while the model is on the device."""


class HostTier:
    """Of one device. `take` is for the thread that draws, `bring` for those that load."""

    def __init__(self, budget_bytes: int, transfers: Transfers) -> None:
        """Models wait in up to `budget_bytes`, counting blocks of memory as they are fetched: powers of two."""
        self._budget_bytes = budget_bytes
        self._transfers = transfers
        self._thread = PassingThread("sdapi-leaving")
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        """What left or came back last is last."""
        self._expected: set[Key] = set()
        self._leaving: set[Future[None]] = set()
        self._clearings = 0
        self._is_closed = False
        self._waiting: Mapping[Key, int] = {}

    def waiting(self, owner: Hashable) -> dict[str, int]:
        """Bytes in host memory of each model of theirs that waits there; any thread may look."""
        return {name: size for (whose, name), size in self._waiting.items() if whose is owner}

    @property
    def size_bytes(self) -> int:
        """What all copies take, those of models that are on the device, too."""
        with self._lock:
            return self._taken_bytes()

    def take(self, key: Key, model: object, version: Hashable, left: Callable[[], None]) -> bool:
        """Let a model that nobody uses wait here. False: it can't, and is the caller's to forget.

        `version` tells its files apart from others of its name. `left` is called on another thread once the device's memory is free,
        whether the model waits here then or there is no room for it.
        """
        if not isinstance(model, CanReturn) or self._is_closed:
            return False
        try:
            packed = model.packed()
        except Exception:  # noqa: BLE001 - it can still be read again, and the drawing goes on
            _log.exception("a model could not be packed")
            return False
        if not can_be_copied(weights_of(packed.networks), self._transfers.device):
            return False
        with self._lock:
            leaving = self._thread.submit(self._leave, key, packed, version, left, self._clearings)
            self._leaving.add(leaving)
        leaving.add_done_callback(self._has_left)
        return True

    def wait_until_left(self) -> None:
        """Return when the memory is free of everything `take` was given so far."""
        with self._lock:
            leaving = list(self._leaving)
        wait(leaving)

    def expect(self, key: Key) -> None:
        """`bring` will be called for this model: what leaves to make room for it must not take its place here."""
        with self._lock:
            self._expected.add(key)

    def bring(self, key: Key, version: Hashable) -> Any | None:
        """The model, its weights on the device again; None where it isn't here, or was read from other files than there are now.

        Raises torch.OutOfMemoryError; the model waits on then.
        """
        try:
            return self._brought(key, version)
        finally:
            with self._lock:
                self._expected.discard(key)

    def _brought(self, key: Key, version: Hashable) -> Any | None:
        with self._lock:
            kept = self._kept.get(key)
        if kept is None or kept.packed is None or kept.version != version:
            self.forget(key)
            return None
        weights = weights_of(kept.packed.networks)
        try:
            kept.copy.restore(weights, self._transfers)
            model = kept.packed.again()
        except torch.OutOfMemoryError:
            let_go(weights)
            raise
        except Exception:  # noqa: BLE001 - whatever a device has against it, the model can still be read from its files
            _log.exception("a model could not be brought back from host memory")
            let_go(weights)
            self.forget(key)
            return None
        with self._lock:
            kept.packed = None
            if self._kept.get(key) is kept:
                self._kept.move_to_end(key)
            self._publish()
        return model

    def forget(self, key: Key) -> None:
        """Keep nothing of that model."""
        with self._lock:
            self._kept.pop(key, None)
            self._publish()

    def clear(self) -> int:
        """Forget all of them, and those that are on their way; how many bytes of host memory that freed. From any thread."""
        with self._lock:
            freed_bytes = self._taken_bytes()
            self._clearings += 1
            self._kept.clear()
            self._publish()
        self._transfers.release()
        return freed_bytes

    def close(self) -> None:
        """Take nothing more and forget everything; what is on its way is given up."""
        self._is_closed = True
        self.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.clear()

    def _leave(self, key: Key, packed: Packed[Any], version: Hashable, left: Callable[[], None], clearings: int) -> None:
        weights = weights_of(packed.networks)
        started = time.monotonic()
        try:
            copy = self._copy(key, weights, lambda: self._clearings == clearings)
        except Exception as error:  # noqa: BLE001 - a model that can't wait here can still be read again
            if not isinstance(error, GivenUp):
                _log.warning("a model could not be kept in host memory", extra={"error": repr(error)})
            copy = None
        # Those who still hold the networks, if only in circles, must not hold the device's memory.
        let_go(weights)
        with self._lock:
            if copy is None or self._clearings != clearings:
                self._kept.pop(key, None)
            else:
                self._kept[key] = _Kept(copy, version, packed)
                self._kept.move_to_end(key)
                told = {"bytes": copy.size_bytes, "seconds": round(time.monotonic() - started, 2), "page_locked": copy.is_page_locked}
                _log.info("model waits in host memory", extra=told)
            self._publish()
        left()

    def _copy(self, key: Key, weights: Sequence[Tensor], is_wanted: Callable[[], bool]) -> HostCopy | None:
        """None where there is no room."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.packed is None and kept.copy.is_of(weights):
                return kept.copy
            self._kept.pop(key, None)
            if not self._has_room(layout_of(weights).host_bytes):
                return None
        return HostCopy.of(weights, self._transfers, is_wanted)

    def _has_room(self, size_bytes: int) -> bool:
        """Whether there is, once others have been forgotten: first copies of models that are on the device, then what left longest ago."""
        too_much = self._taken_bytes() + size_bytes - self._budget_bytes
        in_order = [key for key in self._kept if key not in self._expected]
        can_go = sorted(in_order, key=lambda key: self._kept[key].packed is not None)
        if too_much > sum(self._kept[key].copy.size_bytes for key in can_go):
            return False
        for key in can_go:
            if too_much <= 0:
                break
            too_much -= self._kept.pop(key).copy.size_bytes
        self._publish()
        return True

    def _taken_bytes(self) -> int:
        return sum(kept.copy.size_bytes for kept in self._kept.values())

    def _publish(self) -> None:
        """Replaced as a whole, so that readers need no lock."""
        self._waiting = {key: kept.copy.size_bytes for key, kept in self._kept.items() if kept.packed is not None}

    def _has_left(self, leaving: Future[None]) -> None:
        with self._lock:
            self._leaving.discard(leaving)
