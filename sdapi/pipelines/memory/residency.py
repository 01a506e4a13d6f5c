"""Which models are in memory: loaded beside the drawing, leased while in use, leaving when the memory is needed (see Memory)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.passing_thread import PassingThread
from sdapi.pipelines.quantizing.stored_weights import MayBeQuantized

_log = logging.getLogger(__name__)


class HasSize(Protocol):
    """Whatever can be resident."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        ...


ModelT = TypeVar("ModelT", bound=HasSize)


@dataclass
class _Resident(Generic[ModelT]):
    model: ModelT
    leases: int = 0
    used_at: int = 0
    """When the last lease was given back, by `Memory.now`."""
    used_at_s: float = 0.0
    """The same by `Memory.clock`."""


class Residency(Generic[ModelT]):
    """Models by id. Called from one thread; loading happens on another, so that drawing goes on meanwhile."""

    def __init__(
        self,
        load: Callable[[str], ModelT],
        memory: Memory,
        expected_bytes: Callable[[str], int] = lambda _: 0,
        version: Callable[[str], Hashable | None] = lambda _: None,
    ) -> None:
        """`load` runs on the loading thread. `memory` is what other residencies may share.

        `expected_bytes` tells before a model's first load what it will take, 0 where that isn't known: what is idle makes room for so much.
        `version` tells the files apart that a model is and was loaded from; without one, None, it never waits in the host's memory.
        It is asked on the loading thread.
        """
        self._load = load
        self._version = version
        self._memory = memory
        self._expected_bytes = expected_bytes
        self._resident: dict[str, _Resident[ModelT]] = {}
        self._loading: dict[str, Future[ModelT]] = {}
        self._coming_bytes: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        """What models took that were in memory once."""
        self.wanted: frozenset[str] = frozenset()
        """Models somebody waits for; they stay like those in use, for a load that evicts what is asked for next helps nobody."""
        self._loader = PassingThread("sdapi-loader")
        self._load_s: dict[str, float] = {}
        self._return_s: dict[str, float] = {}
        self._versions: dict[str, Hashable | None] = {}
        """Of models that were loaded."""
        self._state = ModelsInMemory()

    @property
    def state(self) -> ModelsInMemory:
        """What is in memory and what is on its way; any thread may look."""
        if self._memory.host is None:
            return self._state
        waiting = self._memory.host.waiting(self)
        return replace(self._state, on_host=frozenset(waiting), host_bytes=sum(waiting.values()))

    @property
    def memory(self) -> Memory:
        """What its models share with others."""
        return self._memory

    @property
    def size_bytes(self) -> int:
        """What the models in memory take."""
        return sum(resident.model.size_bytes for resident in self._resident.values())

    @property
    def coming_bytes(self) -> int:
        """See Shelf."""
        return sum(self._coming_bytes.values())

    @property
    def idle_since(self) -> int | None:
        """See Shelf."""
        return min((resident.used_at for resident in self._idle.values()), default=None)

    @property
    def idle_since_s(self) -> float | None:
        """See Shelf."""
        return min((resident.used_at_s for resident in self._idle.values()), default=None)

    def drop_idlest(self) -> None:
        """See Shelf."""
        idle = self._idle
        self._drop(min(idle, key=lambda model_id: idle[model_id].used_at))

    def drop_unused(self, since_s: float) -> None:
        """See Shelf."""
        for model_id, resident in self._idle.items():
            if resident.used_at_s <= since_s:
                self._drop(model_id)

    def take_in(self) -> None:
        """See Shelf."""
        for model_id, future in list(self._loading.items()):
            if future.done():
                with suppress(Exception):  # logged nowhere, because nobody wants it any more; whoever asks next has it tried again
                    self._collect(model_id)
                    self._note_use(self._resident[model_id])

    def lease(self, model_id: str) -> ModelT | None:
        """The model, kept until `release`; None while it is being loaded. Raises what loading it raised, once per attempt."""
        has_come = self._collect(model_id)
        resident = self._resident.get(model_id)
        if resident is None:
            if model_id not in self._loading:
                self._memory.add(self)
                # Before the load, so that no more than the budget is ever taken, as far as that can be told.
                if self._memory.host is not None:
                    self._memory.host.expect((self, model_id))
                self._coming_bytes[model_id] = self._sizes.get(model_id) or self._expected_bytes(model_id)
                self._memory.make_room()
                self._loading[model_id] = self._loader.submit(self._bring, model_id)
                self._loading[model_id].add_done_callback(lambda _: self._memory.load_ended())
                self._publish(begun=model_id)
            return None
        resident.leases += 1
        if has_come:
            self._memory.keep_to_budget()
        return resident.model

    def release(self, model_id: str) -> None:
        """Give one lease back."""
        self._resident[model_id].leases -= 1
        self._note_use(self._resident[model_id])
        self._memory.keep_to_budget()

    def evict_idle(self) -> int:
        """Forget every model nobody leases, whatever the budget; how many bytes they took. They don't wait in the host's memory."""
        return sum(self._drop(model_id, for_good=True) for model_id, resident in list(self._resident.items()) if not resident.leases)

    @property
    def models(self) -> list[ModelT]:
        """Those in memory."""
        return [resident.model for resident in self._resident.values()]

    def close(self) -> None:
        """Load nothing more and forget all models."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._resident.clear()
        self._loading.clear()
        self._coming_bytes.clear()

    @property
    def _idle(self) -> dict[str, _Resident[ModelT]]:
        return {model_id: resident for model_id, resident in self._resident.items() if not resident.leases and model_id not in self.wanted}

    def _note_use(self, resident: _Resident[ModelT]) -> None:
        resident.used_at = self._memory.now()
        resident.used_at_s = self._memory.clock()

    def _bring(self, model_id: str) -> ModelT:
        if (host := self._memory.host) is None:
            return self._timed_load(model_id)
        host.wait_until_left()
        version = self._version(model_id)
        started = time.monotonic()
        if (model := host.bring((self, model_id), version)) is not None:
            seconds = time.monotonic() - started
            self._return_s[model_id] = seconds
            _log.info("model came back from host memory", extra={"model": model_id, "seconds": round(seconds, 3)})
            return cast("ModelT", model)
        loaded = self._timed_load(model_id)
        self._versions[model_id] = version
        return loaded

    def _timed_load(self, model_id: str) -> ModelT:
        started = time.monotonic()
        model = self._load(model_id)
        seconds = time.monotonic() - started
        self._load_s[model_id] = seconds
        _log.info("model loaded", extra={"model": model_id, "seconds": round(seconds, 2), "bytes": model.size_bytes})
        return model

    def _collect(self, model_id: str) -> bool:
        future = self._loading.get(model_id)
        if future is None or not future.done():
            return False
        del self._loading[model_id]
        self._coming_bytes.pop(model_id, None)
        try:
            model = future.result()
            self._resident[model_id] = _Resident(model)
            self._sizes[model_id] = model.size_bytes
        finally:
            self._publish()
        return True

    def _drop(self, model_id: str, *, for_good: bool = False) -> int:
        model = self._resident.pop(model_id).model
        size_bytes = model.size_bytes
        self._publish()
        _log.info("model evicted", extra={"model": model_id})
        if not self._leaves_for_host(model_id, model, for_good=for_good):
            self._memory.let_go(size_bytes)
        return size_bytes

    def _leaves_for_host(self, model_id: str, model: ModelT, *, for_good: bool) -> bool:
        host, version = self._memory.host, self._versions.get(model_id)
        if host is None:
            return False
        if for_good or version is None:
            host.forget((self, model_id))
            return False
        return host.take((self, model_id), model, version, partial(self._memory.has_left, model.size_bytes))

    def _publish(self, begun: str | None = None) -> None:
        """Replaced as a whole, so that readers on other threads need no lock."""
        since = dict(self._state.loading)
        if begun is not None:
            since[begun] = time.monotonic()
        self._state = ModelsInMemory(
            resident=frozenset(self._resident),
            quantized=frozenset(one for one, held in self._resident.items() if _is_quantized(held.model)),
            loading={model_id: at for model_id, at in since.items() if model_id in self._loading},
            load_s=dict(self._load_s),
            return_s=dict(self._return_s),
            resident_bytes=self.size_bytes,
        )


def _is_quantized(model: object) -> bool:
    return isinstance(model, MayBeQuantized) and model.is_quantized
