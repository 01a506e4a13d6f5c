"""How a model's UNet is run: as it is, or as a recording that is played again; and always with as many samples, where that is asked.

What one sample comes to depends a little on how many others are in the forward, because libraries choose other kernels for other sizes.
With a pinned number of samples it does not: every forward has that many, so a picture is the same to the bit whatever its neighbours.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
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
from sdapi.pipelines.forwards.recordings import Recorder, Recording, Run, Slots, StaticInputs

_log = logging.getLogger(__name__)

SAMPLE_BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of samples that are recorded; others are padded to the next. Most rows take two, so even numbers are what comes."""

_USES_BEFORE_RECORDING = 2
"""A recording takes four forwards: worth it for sizes that come again."""
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


@dataclass(frozen=True)
class _Recorded:
    slots: Slots
    recording: Recording
    is_compiled: bool


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
        self._recorded: OrderedDict[tuple[ForwardKey, int], _Recorded] = OrderedDict()
        self._uses: Counter[tuple[ForwardKey, int]] = Counter()

    def predict(self, inputs: ForwardInputs) -> Tensor:
        """The noise (samples, 4, h, w) seen in the latents, in memory that nothing overwrites."""
        if self._pinned_samples is None:
            return self._predict(inputs, self._bucket(inputs.samples))
        pinned = self._pinned_samples
        starts = range(0, inputs.samples, pinned)
        parts = [inputs.each(lambda tensor, at=start: tensor[at : at + pinned]) for start in starts]  # type: ignore[misc]
        return torch.cat([self._predict(part, pinned) for part in parts])

    def clear(self) -> int:
        """Forget the recordings; how many bytes they took."""
        freed = self._static.size_bytes + sum(each.recording.size_bytes for each in self._recorded.values())
        self._recorded.clear()
        self._uses.clear()
        self._static = StaticInputs()
        return freed

    @property
    def recorded(self) -> int:
        """How many recordings there are."""
        return len(self._recorded)

    @property
    def compiled(self) -> int:
        """How many of them are of compiled forwards."""
        return sum(each.is_compiled for each in self._recorded.values())

    def _predict(self, inputs: ForwardInputs, samples: int | None) -> Tensor:
        """Padded to so many samples; None for those that are too many to be recorded."""
        if samples is not None and (recorded := self._recording(inputs, samples)) is not None:
            recorded.slots.fill(inputs)
            return recorded.recording.play()[: inputs.samples].clone()
        if self._recorder is None and self._compiled is not None and samples is not None and inputs.samples >= _FULL_ENOUGH * samples:
            padded = inputs.padded(samples)
            if (compiled := self._compiled.for_(padded)) is not None:
                return compiled(padded)[: inputs.samples]
        # Before a size is recorded it is run as it will be, so that the device meets few sizes it has to choose its kernels for.
        if samples is not None and (self._pinned_samples is not None or self._recorder is not None):
            return self._run(inputs.padded(samples))[: inputs.samples]
        return self._run(inputs)

    def _bucket(self, samples: int) -> int | None:
        return next((bucket for bucket in SAMPLE_BUCKETS if bucket >= samples), None)

    def _recording(self, inputs: ForwardInputs, samples: int) -> _Recorded | None:
        key = (inputs.key, samples)
        if self._recorder is None:
            return None
        found = self._recorded.get(key)
        if found is not None:
            self._recorded.move_to_end(key)
            if found.is_compiled or self._compiled is None:
                return found
            compiled = self._compiled.for_(inputs.padded(samples))
            return found if compiled is None else self._record(key, inputs, compiled, is_compiled=True) or found
        if len(self._uses) >= _MAX_COUNTED:
            self._uses.clear()
        self._uses[key] += 1
        if self._uses[key] < _USES_BEFORE_RECORDING:
            return None
        return self._record(key, inputs, self._run, is_compiled=False)

    def _record(self, key: tuple[ForwardKey, int], inputs: ForwardInputs, run: Run, *, is_compiled: bool) -> _Recorded | None:
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
            _log.warning("forwards can't be recorded, they are run one by one from now on", extra={"error": repr(error)})
            self._recorder = None
            self.clear()
            return None
        self._recorded[key] = _Recorded(slots, recording, is_compiled)
        while len(self._recorded) > 1 and sum(each.recording.size_bytes for each in self._recorded.values()) > self._budget_bytes:
            gone, _ = self._recorded.popitem(last=False)
            del self._uses[gone]
        return self._recorded[key]


def forwards_of(unet: Any, options: ForwardOptions) -> Forwards:
    """For a UNet on its device: where that is a GPU, recorded, and with the attention that is fastest there."""
    recorder, compiler = None, None if options.is_deterministic else options.compiler
    if unet.device.type == "cuda":
        recorder = CudaRecorder(unet.device, has_fixed_kernels=options.is_deterministic)
        if not options.is_deterministic:
            choose_attention(unet, cuda_attention(unet))
    pinned = _PINNED_SAMPLES if options.is_deterministic else None
    compiled = None if compiler is None else CompiledForwards(unet, compiler)
    return Forwards(partial(forward, unet), recorder, compiled=compiled, pinned_samples=pinned)
