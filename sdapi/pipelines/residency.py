"""Which models are in memory: loaded beside the drawing, leased while in use, the least recently used leaving first."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sdapi.domain.models_in_memory import ModelsInMemory

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


class Residency(Generic[ModelT]):
    """Models by id. Called from one thread; loading happens on another, so that drawing goes on meanwhile."""

    def __init__(self, load: Callable[[str], ModelT], *, budget_bytes: int) -> None:
        """`load` runs on the loading thread. Leased models stay whatever the budget: a picture in flight can't lose its model."""
        self._load = load
        self._budget_bytes = budget_bytes
        self._resident: OrderedDict[str, _Resident[ModelT]] = OrderedDict()
        self._loading: dict[str, Future[ModelT]] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="sdapi-loader")
        self._load_s: dict[str, float] = {}
        self._state = ModelsInMemory()

    @property
    def state(self) -> ModelsInMemory:
        """What is in memory and what is on its way; any thread may look."""
        return self._state

    @property
    def budget_bytes(self) -> int:
        """What models that nobody leases may take."""
        return self._budget_bytes

    @property
    def size_bytes(self) -> int:
        """What the models in memory take."""
        return sum(resident.model.size_bytes for resident in self._resident.values())

    def set_budget(self, budget_bytes: int) -> None:
        """Keep to another budget from now on."""
        self._budget_bytes = budget_bytes
        self._evict()

    def lease(self, model_id: str) -> ModelT | None:
        """The model, kept until `release`; None while it is being loaded. Raises what loading it raised, once per attempt."""
        self._collect(model_id)
        resident = self._resident.get(model_id)
        if resident is None:
            if model_id not in self._loading:
                self._loading[model_id] = self._loader.submit(self._timed_load, model_id)
                self._publish(begun=model_id)
            return None
        self._resident.move_to_end(model_id)
        resident.leases += 1
        return resident.model

    def release(self, model_id: str) -> None:
        """Give one lease back."""
        self._resident[model_id].leases -= 1
        self._evict()

    def wait_for_load(self, timeout_s: float) -> None:
        """Return when any load under way has ended, or after the timeout."""
        for future in list(self._loading.values()):
            try:
                future.exception(timeout=timeout_s)
            except TimeoutError:
                return

    def evict_idle(self) -> int:
        """Forget every model nobody leases, whatever the budget; how many bytes they took."""
        idle = [model_id for model_id, resident in self._resident.items() if resident.leases == 0]
        freed = sum(self._resident.pop(model_id).model.size_bytes for model_id in idle)
        self._publish()
        for model_id in idle:
            _log.info("model evicted", extra={"model": model_id})
        return freed

    def leased(self) -> list[ModelT]:
        """The models in use."""
        return [resident.model for resident in self._resident.values() if resident.leases]

    def close(self) -> None:
        """Load nothing more and forget all models."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._resident.clear()
        self._loading.clear()

    def _timed_load(self, model_id: str) -> ModelT:
        started = time.monotonic()
        model = self._load(model_id)
        seconds = time.monotonic() - started
        self._load_s[model_id] = seconds
        _log.info("model loaded", extra={"model": model_id, "seconds": round(seconds, 2), "bytes": model.size_bytes})
        return model

    def _collect(self, model_id: str) -> None:
        future = self._loading.get(model_id)
        if future is None or not future.done():
            return
        del self._loading[model_id]
        try:
            self._resident[model_id] = _Resident(future.result())
        finally:
            self._publish()
        self._evict(keep=model_id)

    def _evict(self, keep: str | None = None) -> None:
        total = self.size_bytes
        for model_id in list(self._resident):
            if total <= self._budget_bytes:
                return
            resident = self._resident[model_id]
            if resident.leases == 0 and model_id != keep:
                total -= resident.model.size_bytes
                del self._resident[model_id]
                self._publish()
                _log.info("model evicted", extra={"model": model_id})

    def _publish(self, begun: str | None = None) -> None:
        """Replaced as a whole, so that readers on other threads need no lock."""
        since = dict(self._state.loading)
        if begun is not None:
            since[begun] = time.monotonic()
        self._state = ModelsInMemory(
            resident=frozenset(self._resident),
            loading={model_id: at for model_id, at in since.items() if model_id in self._loading},
            load_s=dict(self._load_s),
        )
