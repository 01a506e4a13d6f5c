"""LoRAs beside the weights they change: added to a module's output, row by row, and never fused into anything.

Hooks stand on the modules only while a forward with LoRAs runs, and only on those that are changed. So a forward without LoRAs is
the plain network, to the bit, and rows with different sets share one forward.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from sdapi.catalog import Asset, Refused
from sdapi.pipelines.added.lora_formats import ModuleNames, RawDelta, Side, sort_tensors
from sdapi.pipelines.loading.placement import device_of, dtype_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Delta:
    """What is added to one module's output: `scale * up(mid(down(x)))`."""

    down: Tensor
    """(rank, inputs), or (rank, channels, kernel, kernel) for a convolution."""
    mid: Tensor | None
    """(rank, rank, kernel, kernel), of LoCon's convolutions in three parts; `down` is 1 x 1 then."""
    up: Tensor
    """(outputs, rank), or (channels, rank, 1, 1)."""
    scale: float
    """alpha / rank."""

    def of(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """What it adds at strength 1 for these inputs of the module."""
        if not isinstance(module, nn.Conv2d):
            return functional.linear(functional.linear(inputs, self.down), self.up) * self.scale
        stride, padding, dilation = module.stride, module.padding, module.dilation
        if self.mid is None:
            inner = functional.conv2d(inputs, self.down, None, stride, padding, dilation)
        else:
            inner = functional.conv2d(functional.conv2d(inputs, self.down), self.mid, None, stride, padding, dilation)
        return functional.conv2d(inner, self.up) * self.scale


@dataclass(frozen=True, eq=False)
class Lora:
    """One LoRA that fits a model, on its device and in its dtype."""

    version: str
    """Tells files apart that bore one name after the other."""
    unet: Mapping[str, Delta]
    text_encoder: Mapping[str, Delta]
    text_encoder_2: Mapping[str, Delta] = field(default_factory=dict)
    """Of Stable Diffusion XL's second one."""

    def of(self, side: Side) -> Mapping[str, Delta]:
        """What it changes of that network."""
        return {"unet": self.unet, "text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}[side]

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        deltas = (*self.unet.values(), *self.text_encoder.values(), *self.text_encoder_2.values())
        return sum(part.nbytes for delta in deltas for part in (delta.down, delta.mid, delta.up) if part is not None)


@dataclass(frozen=True)
class Applied:
    """A LoRA at a strength."""

    lora: Lora
    strength: float


class LoraReader:
    """Reads LoRA files for one model."""

    def __init__(self, unet: Any, text_encoder: Any, text_encoder_2: Any = None) -> None:
        self._modules: dict[Side, dict[str, nn.Module]] = {
            "unet": _changeable(unet),
            "text_encoder": _changeable(text_encoder),
            "text_encoder_2": {} if text_encoder_2 is None else _changeable(text_encoder_2),
        }
        self._names = ModuleNames(
            self._modules["unet"],
            self._modules["text_encoder"],
            self._modules["text_encoder_2"],
            layers_per_block=int(unet.config.layers_per_block),
        )
        self._device = device_of(unet)
        self._dtype = dtype_of(unet)

    def read(self, asset: Asset) -> Lora:
        """Raises Refused where it doesn't fit the model, and what safetensors raises on damaged files.

        What belongs to no module is left out and logged: files often hold more than one family of models has.
        """
        (file,) = asset.weights
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
        raw = sort_tensors(tensors, metadata, self._names)
        if raw.unmatched:
            extra = {"lora": asset.id, "tensors": len(raw.unmatched), "first": raw.unmatched[0]}
            _log.warning("part of a LoRA belongs to no module of the model and was left out", extra=extra)
        return Lora(
            version=f"{asset.id}@{asset.modified_at.isoformat()}",
            unet=self._deltas("unet", raw.unet),
            text_encoder=self._deltas("text_encoder", raw.text_encoder),
            text_encoder_2=self._deltas("text_encoder_2", raw.text_encoder_2),
        )

    def _deltas(self, side: Side, raw: Mapping[str, RawDelta]) -> dict[str, Delta]:
        return {path: self._delta(side, path, delta) for path, delta in raw.items()}

    def _delta(self, side: Side, path: str, raw: RawDelta) -> Delta:
        module = self._modules[side][path]
        if raw.alpha is not None and not math.isfinite(raw.alpha):
            raise Refused(f"Its alpha for {path} is not a number.")
        if not {"down", "up"} <= raw.tensors.keys():
            raise Refused(f"Half of its weights for {path} is missing.")
        down, up, mid = raw.tensors["down"], raw.tensors["up"], raw.tensors.get("mid")
        if isinstance(module, nn.Linear) and mid is None:
            down, up = (part[:, :, 0, 0] if part.shape[2:] == (1, 1) else part for part in (down, up))
        elif isinstance(module, nn.Conv2d):
            down, up = (part[:, :, None, None] if part.ndim == 2 else part for part in (down, up))
        rank = down.shape[0] if down.ndim else 0
        expected = _expected(module, rank, in_three_parts=mid is not None)
        there = tuple(tuple(part.shape) for part in (down, up, mid) if part is not None)
        if rank == 0 or there != expected:
            raise Refused(f"Its weights for {path} have the shape {list(there[0])}, where the model takes {list(expected[0])}.")
        parts = [None if part is None else part.to(self._device, self._dtype, copy=True).contiguous() for part in (down, mid, up)]
        if not all(part is None or bool(torch.isfinite(part).all()) for part in parts):
            raise Refused(f"Its weights for {path} are not numbers.")
        assert parts[0] is not None and parts[2] is not None  # noqa: S101, PT018 - only mid may be missing
        return Delta(parts[0], parts[1], parts[2], (rank if raw.alpha is None else raw.alpha) / rank)


def _changeable(network: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def _expected(module: nn.Module, rank: int, *, in_three_parts: bool) -> tuple[tuple[int, ...], ...]:
    if isinstance(module, nn.Conv2d):
        outputs, inputs, *kernel = module.weight.shape
        if in_three_parts:
            return (rank, inputs, 1, 1), (outputs, rank, 1, 1), (rank, rank, *kernel)
        return (rank, inputs, *kernel), (outputs, rank, 1, 1)
    assert isinstance(module, nn.Linear)  # noqa: S101 - see _changeable
    return (rank, module.in_features), (module.out_features, rank)


@dataclass(frozen=True)
class _Share:
    """A module's change, for some samples of the batch."""

    delta: Delta
    samples: Tensor | None
    """Which ones, (n,) of int64; None for all of them, in order."""
    strengths: Tensor
    """(n,)."""
    has_zeros: bool = False

    def add_to(self, output: Tensor, module: nn.Module, inputs: Tensor) -> None:
        mine = inputs if self.samples is None else inputs.index_select(0, self.samples)
        added = self.delta.of(module, mine)
        strengths = self.strengths.to(added.dtype).view(-1, *[1] * (added.ndim - 1))
        added = added * strengths
        if self.has_zeros:
            added.masked_fill_(strengths == 0, 0.0)
        if self.samples is None:
            output += added
        else:
            output.index_add_(0, self.samples, added)


@contextmanager
def applied(network: nn.Module, side: Side, samples: Sequence[Sequence[Applied]]) -> Iterator[None]:
    """While it is open, a forward of so many samples runs with each sample's own LoRAs. Without any, nothing is touched."""
    strengths: defaultdict[Lora, dict[int, float]] = defaultdict(dict)
    for sample, uses in enumerate(samples):
        for use in uses:
            if use.strength:
                strengths[use.lora][sample] = strengths[use.lora].get(sample, 0.0) + use.strength
    with ExitStack() as hooks:
        shares: defaultdict[str, list[_Share]] = defaultdict(list)
        for lora, by_sample in strengths.items():
            deltas = lora.of(side)
            if not deltas:
                continue
            device = next(iter(deltas.values())).down.device
            chosen = None if len(by_sample) == len(samples) else torch.tensor(list(by_sample), device=device)
            weights = torch.tensor(list(by_sample.values()), device=device)
            for path, delta in deltas.items():
                shares[path].append(_Share(delta, chosen, weights))
        _hook(network, shares, hooks)
        yield


@contextmanager
def applied_to_all(network: nn.Module, side: Side, loras: Sequence[Lora], strengths: Tensor, *, is_mixed: bool) -> Iterator[None]:
    """While it is open, all samples of a forward run with all of these LoRAs, each at its own strength.

    `strengths` is (samples, LoRAs), on the network's device, and is looked at when the forward runs. Only where it `is_mixed` may some
    be 0: to such a sample nothing is added, not even where a LoRA comes to no number.
    """
    with ExitStack() as hooks:
        shares: defaultdict[str, list[_Share]] = defaultdict(list)
        for number, lora in enumerate(loras):
            for path, delta in lora.of(side).items():
                shares[path].append(_Share(delta, None, strengths[:, number], has_zeros=is_mixed))
        _hook(network, shares, hooks)
        yield


def _hook(network: nn.Module, shares: Mapping[str, list[_Share]], hooks: ExitStack) -> None:
    for path, several in shares.items():
        hooks.callback(network.get_submodule(path).register_forward_hook(_adding(several)).remove)


def _adding(shares: list[_Share]) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # In place: what a linear or convolution module returns is new, and nobody else's.
        for share in shares:
            share.add_to(output, module, args[0])
        return output

    return hook
