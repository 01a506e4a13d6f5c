"""How a model's UNet is run: as it is, or as a recording that is played again; and always with as many samples, where that is asked.

What one sample comes to depends a little on how many others are in the forward, because libraries choose other kernels for other sizes.
With a pinned number of samples it does not: every forward has that many, so a picture is the same to the bit whatever its neighbours.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sdapi.pipelines.compiling.compiled_forwards import CompiledForwards
from sdapi.pipelines.compiling.compiler import Compiler
from sdapi.pipelines.forwards.attention_choice import choose_attention, cuda_attention
from sdapi.pipelines.forwards.cuda_graphs import CudaRecorder
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, ForwardKey, forward
from sdapi.pipelines.forwards.joined_projections import joining_choice
from sdapi.pipelines.forwards.overlay import Overlay, SteadyOverlay
from sdapi.pipelines.forwards.recordings import Recorder, Recording, Run, Slots, StaticInputs
from sdapi.pipelines.loading.placement import device_of
from sdapi.pipelines.memory.shortage import is_out_of_memory
from sdapi.pipelines.quantizing.stored_weights import is_quantized

_log = logging.getLogger(__name__)

SAMPLE_BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of samples that are recorded; others are padded to the next. Most rows take two, so even numbers are what comes."""

_USES_BEFORE_RECORDING = 2
"""A recording takes four forwards: worth it for sizes that come again."""
_USES_OF_LORAS_BEFORE_RECORDING = 6
"""Fewer pictures share those, so that most of what they gain is within one picture."""
_USES_AFTER_SHORTAGE = 1000
"""Before what had no memory to be recorded is tried again."""
_MAX_COUNTED = 4096
_FULL_ENOUGH = 0.8
"""Of a compiled forward without a recording: compiled, a sample takes three quarters of the time, about, and padding takes as long."""
_PINNED_SAMPLES = 4
"""Two pictures with guidance: more would make a lone one dearer, fewer would gain nothing from company."""


@dataclass(frozen=True)
class ForwardOptions:
    """How UNets are run."""

    is_deterministic: bool = False
    """Always with as many samples, so that a picture doesn't depend on its neighbours, to the bit. Nothing is compiled then."""
    compiler: Compiler | None = None
    """None: they are run as the network is written."""


_Key = tuple[ForwardKey, int, Hashable]
"""Shape, samples, and what is laid over the network."""


@dataclass(frozen=True)
class _Recorded:
    slots: Slots
    recording: Recording
    is_compiled: bool
    needs: tuple[weakref.ref[Any], ...]
    """What it reads besides the network, at fixed places of the device's memory: another may lie there once one of these is gone."""

    @property
    def is_whole(self) -> bool:
        return all(need() is not None for need in self.needs)


class Compiled(Protocol):
    """Forwards in compiled form (see `compiled_forwards.py`)."""

    def for_(self, inputs: ForwardInputs) -> Run | None:
        """What runs inputs of exactly this size; None where there is nothing, or not yet."""
        ...


class Forwards:
    """Of one loaded model; for use from the device thread only."""

    def __init__(
        self,
        run: Run,
        recorder: Recorder | None = None,
        *,
        compiled: Compiled | None = None,
        budget_bytes: int = 4 * 2**30,
        pinned_samples: int | None = None,
    ) -> None:
        """`run` is the forward as it is. Without a recorder and compiled ones it is all there is.

        Recordings take up to `budget_bytes`; those played longest ago leave first.
        """
        self._run = run
        self._recorder = recorder
        self._compiled = compiled
        self._budget_bytes = budget_bytes
        self._pinned_samples = pinned_samples
        self._static = StaticInputs()
        self._recorded: OrderedDict[_Key, _Recorded] = OrderedDict()
        self._uses: Counter[_Key] = Counter()
        self._hopeless: set[Hashable] = set()
        """Kinds of overlays that can't be recorded."""

    def predict(self, inputs: ForwardInputs) -> Tensor:
        """The noise (samples, 4, h, w) seen in the latents, in memory that nothing overwrites."""
        if self._pinned_samples is None:
            return self._predict(inputs, self._bucket(inputs.samples))
        pinned = self._pinned_samples
        starts = range(0, inputs.samples, pinned)
        parts = [inputs.each(lambda tensor, at=start: tensor[at : at + pinned]) for start in starts]  # type: ignore[misc]
        return torch.cat([self._predict(part, pinned) for part in parts])

    def predict_under(self, overlay: Overlay, inputs: ForwardInputs) -> Tensor:
        """The same with something laid over the network. Never with a pinned number of samples."""
        steady = None if self._recorder is None or self._pinned_samples is not None else overlay.steady(inputs)
        if steady is None or _kind(*steady) in self._hopeless:
            return overlay.forward(inputs)
        laid, told = steady
        return self._predict(told, self._bucket(told.samples), laid)

    def clear(self) -> int:
        """Forget the recordings; how many bytes they took."""
        freed = self._size_bytes
        self._recorded.clear()
        self._uses.clear()
        self._static = StaticInputs()
        return freed

    @property
    def _size_bytes(self) -> int:
        return self._static.size_bytes + sum(each.recording.size_bytes for each in self._recorded.values())

    @property
    def recorded(self) -> int:
        """How many recordings there are."""
        return len(self._recorded)

    @property
    def compiled(self) -> int:
        """How many of them are of compiled forwards."""
        return sum(each.is_compiled for each in self._recorded.values())

    def _predict(self, inputs: ForwardInputs, samples: int | None, laid: SteadyOverlay | None = None) -> Tensor:
        """Padded to so many samples; None for those that are too many to be recorded."""
        run = self._run if laid is None else laid.forward
        if samples is not None and (recorded := self._recording(inputs, samples, laid)) is not None:
            recorded.slots.fill(inputs)
            return recorded.recording.play()[: inputs.samples].clone()
        compiled = self._compiled if laid is None and self._recorder is None else None
        if compiled is not None and samples is not None and inputs.samples >= _FULL_ENOUGH * samples:
            padded = inputs.padded(samples)
            if (compiled_run := compiled.for_(padded)) is not None:
                return compiled_run(padded)[: inputs.samples]
        # Before a size is recorded it is run as it will be, so that the device meets few sizes it has to choose its kernels for.
        if samples is not None and (self._pinned_samples is not None or self._recorder is not None):
            return run(inputs.padded(samples))[: inputs.samples]
        return run(inputs)

    def _bucket(self, samples: int) -> int | None:
        return next((bucket for bucket in SAMPLE_BUCKETS if bucket >= samples), None)

    def _recording(self, inputs: ForwardInputs, samples: int, laid: SteadyOverlay | None) -> _Recorded | None:
        if self._recorder is None:
            return None
        self._drop_broken()
        key = (inputs.key, samples, None if laid is None else laid.key)
        found = self._recorded.get(key)
        if found is not None:
            self._recorded.move_to_end(key)
            if found.is_compiled or self._compiled is None or laid is not None:
                return found
            compiled = self._compiled.for_(inputs.padded(samples))
            return found if compiled is None else self._record(key, inputs, compiled, is_compiled=True) or found
        if len(self._uses) >= _MAX_COUNTED:
            self._uses.clear()
        self._uses[key] += 1
        loras = () if laid is None else laid.loras
        if self._uses[key] < (_USES_OF_LORAS_BEFORE_RECORDING if loras else _USES_BEFORE_RECORDING):
            return None
        run = self._run if laid is None else laid.forward
        kind = None if laid is None else _kind(laid, inputs)
        return self._record(key, inputs, run, is_compiled=False, needs=tuple(weakref.ref(lora) for lora in loras), kind=kind)

    def _drop_broken(self) -> None:
        """Forget what can't be played any more: LoRAs that have left memory."""
        for key in [key for key, recorded in self._recorded.items() if not recorded.is_whole]:
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        del self._recorded[key]
        self._uses.pop(key, None)

    def _record(
        self,
        key: _Key,
        inputs: ForwardInputs,
        run: Run,
        *,
        is_compiled: bool,
        needs: tuple[weakref.ref[Any], ...] = (),
        kind: Hashable = None,
    ) -> _Recorded | None:
        assert self._recorder is not None  # noqa: S101 - see the callers
        slots = self._static.room_for(inputs, key[1])
        slots.fill(inputs)
        try:
            recording = self._recorder.record(run, slots.inputs)
        except Exception as error:  # noqa: BLE001 - whatever a device has against being recorded, it can still draw
            if is_compiled:
                _log.warning("compiled forwards can't be recorded, they are left", extra={"error": repr(error)})
                self._compiled = None
                return None
            if is_out_of_memory(error):
                _log.warning("there is no memory for recorded forwards, those there are leave", extra={"error": repr(error)})
                self.clear()
                self._budget_bytes //= 2
                self._uses[key] = -_USES_AFTER_SHORTAGE
                return None
            if kind is not None:
                _log.warning("forwards with this laid over them can't be recorded", extra={"overlay": kind, "error": repr(error)})
                self._hopeless.add(kind)
                return None
            _log.warning("forwards can't be recorded, they are run one by one from now on", extra={"error": repr(error)})
            self._recorder = None
            self.clear()
            return None
        self._recorded[key] = _Recorded(slots, recording, is_compiled, needs)
        while len(self._recorded) > 1 and self._size_bytes > self._budget_bytes:
            self._drop(next(iter(self._recorded)))
        return self._recorded[key]


def _kind(laid: SteadyOverlay, inputs: ForwardInputs) -> tuple[bool, ...]:
    return bool(laid.loras), laid.batch.merges_tokens, inputs.perturbed is not None, bool(inputs.residuals)


def forwards_of(unet: Any, options: ForwardOptions) -> Forwards:
    """For a UNet on its device: where that is a GPU, recorded, and with the attention that is fastest there."""
    compiler = None if options.is_deterministic else options.compiler
    if compiler is not None and is_quantized(unet):
        _log.info("a model is not compiled, because its weights are in eight bits: compiled forwards take plain ones")
        compiler = None
    if device_of(unet).type == "cuda" and not options.is_deterministic:
        choose_attention(unet, cuda_attention(unet), joining_choice(unet))
    pinned = _PINNED_SAMPLES if options.is_deterministic else None
    compiled = None if compiler is None else CompiledForwards(unet, compiler)
    recorder = recorder_on(device_of(unet), has_fixed_kernels=options.is_deterministic)
    return Forwards(partial(forward, unet), None if recorder is None else recorder(), compiled=compiled, pinned_samples=pinned)


def recorder_on(device: torch.device, *, has_fixed_kernels: bool) -> Callable[[], Recorder] | None:
    """Makes what records there, of one network each; None for a device that starts kernels as quickly as it runs them."""
    return partial(CudaRecorder, device, has_fixed_kernels=has_fixed_kernels) if device.type == "cuda" else None
