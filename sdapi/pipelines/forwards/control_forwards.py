"""What control nets add to a model's forwards. Each net runs once over the samples it leads; from recordings, where there are any."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sdapi.pipelines.control.controlnets import ControlNetwork, Sample, joint_residuals
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs
from sdapi.pipelines.forwards.recordings import Recorder
from sdapi.pipelines.forwards.unet_forward import Forwards
from sdapi.pipelines.guidance.halves import Words

_CHANNELS = 4
"""Of the latents: control nets know nothing of those in which inpainting models are shown masks."""
_BUDGET_BYTES = 2**30
"""For the recordings of one net."""

_Shapes = dict[torch.Size, list[torch.Size]]
"""Of the levels of one sample, by that of its latents."""


class ControlForwards:
    """Beside one loaded UNet; for use from the device thread only."""

    def __init__(self, recorder: Callable[[], Recorder] | None) -> None:
        """`recorder` makes one for each net; None: they are run as they are."""
        self._recorder = recorder
        # Weak, because a net that leaves memory takes along what was recorded of it.
        self._nets: WeakKeyDictionary[ControlNetwork, _Net] = WeakKeyDictionary()

    def residuals(self, samples: Sequence[Sample], told: ForwardInputs, words: Sequence[Words]) -> tuple[Tensor, ...]:
        """See `ForwardInputs.residuals`; none where nobody leads. All three have one entry per sample."""
        if not any(sample.controls for sample in samples):
            return ()
        context = torch.stack([each.context for each in words])
        levels = joint_residuals(samples, told.latents[:, :_CHANNELS], told.timesteps, context, told.conditions, self._of)
        return () if levels is None else tuple(levels)

    def clear(self) -> int:
        """Forget the recordings; how many bytes they took."""
        freed = sum(net.forwards.clear() for net in self._nets.values())
        self._nets.clear()
        return freed

    @property
    def recorded(self) -> int:
        """How many recordings there are."""
        return sum(net.forwards.recorded for net in self._nets.values())

    def _of(
        self, network: ControlNetwork, latents: Tensor, times: Tensor, contexts: Tensor, hints: Tensor, told: Mapping[str, Tensor] | None
    ) -> list[Tensor]:
        """See `ControlNetwork.residuals`."""
        if self._recorder is None:
            return network.residuals(latents, times, contexts, hints, told)
        if (net := self._nets.get(network)) is None:
            net = self._nets[network] = _Net(network, self._recorder())
        pooled, sizes = (None, None) if told is None else (told["text_embeds"], told["time_ids"])
        return net.residuals(ForwardInputs(latents, times, contexts, pooled, sizes, residuals=(hints,)))


class _Net:
    def __init__(self, network: ControlNetwork, recorder: Recorder) -> None:
        self._shapes: _Shapes = {}
        run = partial(_in_one_row, weakref.ref(network), self._shapes)
        self.forwards = Forwards(run, recorder, budget_bytes=_BUDGET_BYTES)

    def residuals(self, told: ForwardInputs) -> list[Tensor]:
        rows = self.forwards.predict(told)
        shapes = self._shapes[told.latents.shape[1:]]
        parts = rows.split_with_sizes([shape.numel() for shape in shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def _in_one_row(network: weakref.ref[ControlNetwork], shapes: _Shapes, told: ForwardInputs) -> Tensor:
    """(samples, numbers): all levels, one after the other, because a recording has one output. Notes their shapes."""
    found = network()
    assert found is not None  # noqa: S101 - whoever asks for its residuals has it
    levels = found.residuals(told.latents, told.timesteps, told.context, told.residuals[0], told.conditions)
    shapes[told.latents.shape[1:]] = [level.shape[1:] for level in levels]
    return torch.cat([level.flatten(1) for level in levels], dim=1)
