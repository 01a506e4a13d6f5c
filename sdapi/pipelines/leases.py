"""What one job keeps in memory: its checkpoint, and the control nets that lead it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from .controlnets import ControlNetwork
from .residency import ModelT, Residency


class Leases(Generic[ModelT]):
    """Taken one by one as models come into memory and kept meanwhile: two that don't fit together could evict each other for ever."""

    def __init__(self, models: Residency[ModelT], control_nets: Residency[ControlNetwork]) -> None:
        self._models = models
        self._control_nets = control_nets
        self._model_id: str | None = None
        self._model: ModelT | None = None
        self._nets: dict[str, ControlNetwork] = {}
        self._net_ids: Sequence[str] = ()

    def acquire(self, model_id: str, net_ids: Sequence[str]) -> ModelT | None:
        """The checkpoint, once everything is in memory; None while something is being loaded. Raises what loading raised."""
        self._net_ids = net_ids
        for net_id in net_ids:
            if net_id not in self._nets and (net := self._control_nets.lease(net_id)) is not None:
                self._nets[net_id] = net
        if self._model is None and (model := self._models.lease(model_id)) is not None:
            self._model, self._model_id = model, model_id
            # Control nets take what the checkpoints leave of the one budget.
            self._control_nets.set_budget(max(0, self._models.budget_bytes - self._models.size_bytes))
        return self._model if all(net_id in self._nets for net_id in net_ids) else None

    @property
    def control_nets(self) -> list[ControlNetwork]:
        """Those asked for, in the order of the request; once `acquire` has given the checkpoint."""
        return [self._nets[net_id] for net_id in self._net_ids]

    def release(self) -> None:
        """Give everything back."""
        for net_id in self._nets:
            self._control_nets.release(net_id)
        self._nets = {}
        if self._model_id is not None:
            self._models.release(self._model_id)
        self._model_id = self._model = None
