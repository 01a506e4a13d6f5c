"""Perturbed-attention guidance: away from what the model draws when its middle can't look around itself.

A sample is perturbed by making the self-attention of the UNet's middle block the identity: every place keeps its own value. The
prediction is then led away from that of the perturbed sample, as from that of the negative prompt (Ahn et al. 2024, "Self-Rectifying
Diffusion Sampling with Perturbed-Attention Guidance"). Hooks stand on the block only while a forward with such samples runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sdapi.catalog import ModelBroken

_SCALE = 3.0
"""How far to go away from the perturbed prediction: the authors' and diffusers' default."""


def perturbation_scale(unet: Any, model_id: str) -> float:
    """How far to lead rows of this model. Raises ModelBroken when it has no middle, as some distilled ones, or none that attends."""
    if not _self_attentions(unet):
        raise ModelBroken(model_id, f"The model {model_id!r} has no self-attention in its middle: it can't be drawn with self_attention.")
    return _SCALE


@contextmanager
def perturbed(unet: Any, which: Tensor | None) -> Iterator[None]:
    """While it is open, those samples of a forward are perturbed that `which`, (samples,) of bool, tells. None: nothing is touched.

    It is looked at when the forward runs.
    """
    with ExitStack() as hooks:
        if which is not None:
            for attention in _self_attentions(unet):
                identity = _Identity(which)
                hooks.callback(attention.to_v.register_forward_hook(identity.see_values).remove)
                hooks.callback(attention.to_out[0].register_forward_pre_hook(identity.replace_attended).remove)
        yield


class _Identity:
    """Puts a self-attention's values in the place of what it attended to, for some samples.

    The attention itself runs over all of them, so that LoRAs find their samples where they expect them; in the middle that costs little.
    """

    def __init__(self, which: Tensor) -> None:
        self._which = which[:, None, None]
        self._values: Tensor | None = None

    def see_values(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG002 - a hook's signature
        self._values = output

    def replace_attended(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG002 - as above
        assert self._values is not None  # noqa: S101 - an attention projects its values before its result
        values, self._values = self._values, None
        return (torch.where(self._which, values, args[0]), *args[1:])


def _self_attentions(unet: Any) -> list[Any]:
    middle = getattr(unet, "mid_block", None)
    if middle is None:
        return []
    return [module for module in middle.modules() if isinstance(module, Attention) and not module.is_cross_attention]
