"""Control nets beside a UNet: a row's own nets, hints and scales, and what they add to the joint forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdapi.catalog import ModelBroken
from sdapi.pipelines.control.annotators import Map
from sdapi.pipelines.memory.host_tier import Packed
from sdapi.pipelines.samplers.row_sums import brought

_ARCHITECTURE = ("block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim", "addition_embed_type")
"""In which a control net equals the UNet it was made from."""
_OUTERMOST = 0.1
"""What guess mode leaves of the outermost level; the innermost keeps all (ControlNet's own code)."""


class ControlNetwork:
    """A loaded control net; for use from the device thread only. Shared by all rows it leads, so nobody changes it."""

    def __init__(self, net_id: str, network: Any) -> None:
        """`network` is a ControlNetModel, whose hint encoder is taken out of it: hints are encoded once a row, not at every step."""
        self.id = net_id
        self._hint_encoder: Any = network.controlnet_cond_embedding
        self._reads_bgr = network.config.controlnet_conditioning_channel_order == "bgr"
        self.size_bytes = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
        network.controlnet_cond_embedding = nn.Identity()
        network.register_to_config(controlnet_conditioning_channel_order="rgb")
        self._network = network

    def packed(self) -> Packed[ControlNetwork]:
        """See CanReturn. Another object comes back: nobody may take its weights for those that lay where the old one's were."""
        return Packed((self._network, self._hint_encoder), partial(copy.copy, self))

    @property
    def is_pooled(self) -> bool:
        """Whether it tells of the whole picture instead of places in it, as shuffle nets do; those lead the conditional half only."""
        return bool(self._network.config.global_pool_conditions)

    def check_fits(self, unet: Any, model_id: str) -> None:
        """Raises ModelBroken when it was made for another architecture than this UNet's."""
        if any(_listed(self._network.config[name]) != _listed(unet.config[name]) for name in _ARCHITECTURE):
            raise ModelBroken(self.id, f"The control net {self.id!r} is made for another kind of model than {model_id!r}.")

    def encoded(self, hint: Map) -> Tensor:
        """(1, channels, height_px / 8, width_px / 8) from a map of the picture's size, for `residuals`."""
        pixels = torch.from_numpy(hint).permute(2, 0, 1)[None].to(self._network.device, self._network.dtype)
        encoded: Tensor = self._hint_encoder(pixels.flip(1) if self._reads_bgr else pixels)
        return encoded

    def residuals(
        self, inputs: Tensor, timesteps: Tensor, contexts: Tensor, hints: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """What it adds to the UNet's levels, outermost first and the middle last; all arguments have one entry per sample.

        `conditions` are what Stable Diffusion XL is told beside the tokens, by their names in diffusers.
        """
        down, mid = self._network(inputs, timesteps, contexts, hints, added_cond_kwargs=conditions, return_dict=False)
        return [*down, mid]


@dataclass(frozen=True)
class Control:
    """One control net's lead over one row."""

    network: ControlNetwork
    hint: Tensor
    """See ControlNetwork.encoded."""
    scale: float
    guess_mode: bool
    """Leads the conditional half only, the outer levels less: the net then has to guess what the prompt doesn't say."""

    @property
    def leads_unconditional(self) -> bool:
        """Whether the unconditional half is led, too."""
        return not (self.guess_mode or self.network.is_pooled)

    def level_scales(self, levels: int) -> list[float]:
        """The scale at each of so many levels, outermost first."""
        if not self.guess_mode or self.network.is_pooled:
            return [self.scale] * levels
        return [self.scale * _OUTERMOST ** (1 - level / (levels - 1)) for level in range(levels)]


@dataclass(frozen=True)
class Sample:
    """One sample of a joint forward, as far as control nets are concerned."""

    controls: tuple[Control, ...]
    is_unconditional: bool
    """The half without the prompt, of a row that has both."""


def joint_residuals(
    samples: Sequence[Sample],
    inputs: Tensor,
    timesteps: Tensor,
    contexts: Tensor,
    conditions: Mapping[str, Tensor] | None = None,
    residuals_of: Callable[..., list[Tensor]] = ControlNetwork.residuals,
) -> list[Tensor] | None:
    """What is added to the UNet's levels, one entry per sample: zeros for samples nobody leads. None when nobody leads any.

    `inputs` is (samples, 4, h, w). Every net runs once, over the samples it leads, whatever their scales. `residuals_of` runs one: given
    the net and what `ControlNetwork.residuals` takes.
    """
    led: dict[ControlNetwork, list[tuple[int, Control]]] = {}
    for place, sample in enumerate(samples):
        for control in sample.controls:
            if control.leads_unconditional or not sample.is_unconditional:
                led.setdefault(control.network, []).append((place, control))
    total: list[Tensor] | None = None
    for network, leads in led.items():
        places = brought(torch.tensor([place for place, _ in leads]), inputs.device)
        hints = torch.cat([control.hint for _, control in leads])
        theirs = None if conditions is None else {name: each[places] for name, each in conditions.items()}
        levels = residuals_of(network, inputs[places], timesteps[places], contexts[places], hints, theirs)
        scales = brought(torch.tensor([control.level_scales(len(levels)) for _, control in leads], dtype=inputs.dtype), inputs.device)
        added = [_spread(level * scale[:, None, None, None], places, len(samples)) for level, scale in zip(levels, scales.T, strict=True)]
        # Nets that tell of the whole picture have one value a channel; sums stretch that over the places.
        total = added if total is None else [one + other for one, other in zip(total, added, strict=True)]
    return total


def _spread(level: Tensor, places: Tensor, samples: int) -> Tensor:
    """One entry per sample, zeros but at `places`."""
    return torch.zeros(samples, *level.shape[1:], device=level.device, dtype=level.dtype).index_add_(0, places, level)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
