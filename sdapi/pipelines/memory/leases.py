"""What one job keeps in memory: its checkpoint, the control nets that lead it, what it adds to the checkpoint, and its upscaler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol

from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.memory.residency import ModelT, Residency
from sdapi.pipelines.upscalers.face_shelf import FaceLease
from sdapi.pipelines.upscalers.kinds import Upscaler


class Held(Protocol):
    """Things a job keeps in memory with its model (see AdditionLeases)."""

    def acquire(self) -> bool:
        """Whether everything is in memory; what isn't is being brought. Raises what bringing it raised."""
        ...

    def release(self) -> None:
        """Give everything back."""
        ...


class HeldTogether:
    """Several of them, as one."""

    def __init__(self, *held: Held) -> None:
        self._held = held

    def acquire(self) -> bool:
        """See Held. All of them are asked for, so that they are brought at the same time."""
        there = [held.acquire() for held in self._held]
        return all(there)

    def release(self) -> None:
        """See Held."""
        for held in self._held:
            held.release()


class Leases(Generic[ModelT]):
    """Taken one by one as models come into memory and kept meanwhile: two that don't fit together could evict each other for ever."""

    def __init__(
        self,
        models: Residency[ModelT],
        control_nets: Residency[ControlNetwork],
        additions: Callable[[ModelT], Held | None] = lambda _: None,
        upscalers: Residency[Upscaler] | None = None,
        faces: FaceLease | None = None,
    ) -> None:
        """`additions` says what else the job needs once its model is there; raises InvalidRequest where there is no such thing.

        None for `upscalers`: `acquire_upscaler` is never called. `faces` is what restores them, where the job asks for that.
        """
        self._models = models
        self._control_nets = control_nets
        self._additions_of = additions
        self._upscalers = upscalers
        self._model_id: str | None = None
        self._model: ModelT | None = None
        self._nets: dict[str, ControlNetwork] = {}
        self._net_ids: Sequence[str] = ()
        self._additions: Held | None = None
        self._upscaler: Upscaler | None = None
        self._upscaler_id: str | None = None
        self.faces = faces

    def acquire(self, model_id: str, net_ids: Sequence[str]) -> ModelT | None:
        """The checkpoint, once everything is in memory; None while something is being loaded. Raises what loading raised."""
        self._net_ids = net_ids
        for net_id in net_ids:
            if net_id not in self._nets and (net := self._control_nets.lease(net_id)) is not None:
                self._nets[net_id] = net
        if self._model is None and (model := self._models.lease(model_id)) is not None:
            self._model, self._model_id = model, model_id
            self._additions = self._additions_of(model)
        if self._additions is not None and not self._additions.acquire():
            return None
        return self._model if all(net_id in self._nets for net_id in net_ids) else None

    def acquire_upscaler(self, upscaler_id: str) -> Upscaler | None:
        """The upscaler, once it is in memory; None while it is being loaded. Raises what loading raised."""
        if self._upscalers is None:
            raise ValueError("no upscalers were given")
        if self._upscaler is None and (upscaler := self._upscalers.lease(upscaler_id)) is not None:
            self._upscaler, self._upscaler_id = upscaler, upscaler_id
        return self._upscaler

    @property
    def model(self) -> ModelT | None:
        """The checkpoint, once `acquire` has given it."""
        return self._model

    @property
    def upscaler(self) -> Upscaler | None:
        """The upscaler, once `acquire_upscaler` has given it."""
        return self._upscaler

    @property
    def control_nets(self) -> list[ControlNetwork]:
        """Those asked for, in the order of the request; once `acquire` has given the checkpoint."""
        return [self._nets[net_id] for net_id in self._net_ids]

    def release(self) -> None:
        """Give everything back, the checkpoint last: it is worth more than what goes with it."""
        if self._additions is not None:
            self._additions.release()
        if self.faces is not None:
            self.faces.release()
        for net_id in self._nets:
            self._control_nets.release(net_id)
        if self._upscalers is not None and self._upscaler_id is not None:
            self._upscalers.release(self._upscaler_id)
        if self._model_id is not None:
            self._models.release(self._model_id)
        self._model_id = self._model = self._additions = None
        self._upscaler_id = self._upscaler = None
        self._nets = {}
