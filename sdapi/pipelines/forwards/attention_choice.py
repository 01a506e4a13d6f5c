"""Which of torch's kernels a UNet's self-attentions run on: the fastest by measurement, for each number of tokens and width of head.

Torch prefers them in one order for all shapes; which is fastest differs with the device and the shape, Stable Diffusion 1's heads of 40
numbers being the odd ones. They are called by their own names: torch's way of choosing one (`sdpa_kernel`) counts for the whole process,
so that a picture decoded on another thread would have to take the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from .best_time import best_seconds
from .joined_projections import JoiningChoice, joined_weight, lay_together
from .usual_attention import is_usual

_log = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(samples, heads, tokens, width) from queries, keys and values of that shape."""

Shape = tuple[int, int, int, int]
"""Samples, heads, tokens, width of a head."""

_TOLERANCE = 0.02
"""Of half precision, about; a kernel that is off by more isn't computing the same."""


def _by_default(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value)


def _cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, compute_log_sumexp=False)[0]  # noqa: SLF001
    return attended


def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]  # noqa: SLF001
    return attended


def _efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, compute_log_sumexp=False)[0]  # noqa: SLF001
    return attended


CUDA_KERNELS: Mapping[str, Kernel] = {"default": _by_default, "cudnn": _cudnn, "flash": _flash, "efficient": _efficient}
"""The plain way isn't among them: it takes several kernels, and a table of tokens by tokens."""


class AttentionChoice:
    """Of one device and number format; for use from the device thread only."""

    def __init__(self, kernels: Mapping[str, Kernel], seconds: Callable[[Kernel, Shape], float]) -> None:
        """`seconds` measures; it raises RuntimeError for kernels that can't compute the shape. "default" must be among the kernels."""
        self._kernels = kernels
        self._seconds = seconds
        self._chosen: dict[Shape, Kernel] = {}

    def of(self, shape: Shape) -> Kernel:
        """The first time for a shape takes some milliseconds, and the device must not be recording then."""
        if shape not in self._chosen:
            self._chosen[shape] = self._fastest(shape)
        return self._chosen[shape]

    def _fastest(self, shape: Shape) -> Kernel:
        took: dict[str, float] = {}
        for name, kernel in self._kernels.items():
            try:
                took[name] = self._seconds(kernel, shape)
            except RuntimeError as error:
                # The device, the format or the width is none of this one's.
                _log.debug("an attention kernel can't be used", extra={"kernel": name, "shape": shape, "error": repr(error)})
        fastest = min(took, key=took.__getitem__, default="default")
        _log.info("attention measured", extra={"shape": shape, "seconds": took, "fastest": fastest})
        return self._kernels[fastest]


def measured_seconds(kernel: Kernel, shape: Shape, *, device: torch.device, dtype: torch.dtype) -> float:
    """What a kernel takes there: the best of some runs. Raises RuntimeError when it can't compute the shape, or computes something else."""
    query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    # The first run is where libraries load their kernels.
    error = (kernel(query, key, value) - scaled_dot_product_attention(query, key, value)).abs().max()
    if not error <= _TOLERANCE:
        raise RuntimeError(f"it is off by {float(error)}")
    return best_seconds(lambda: kernel(query, key, value), device=device)


def cuda_attention(unet: Any) -> AttentionChoice:
    """For the device and the format that the network is in."""
    return AttentionChoice(CUDA_KERNELS, partial(measured_seconds, device=unet.device, dtype=unet.dtype))


def choose_attention(unet: Any, choice: AttentionChoice, joining: JoiningChoice | None = None) -> None:
    """Let the network's self-attentions run on what is fastest from now on. Others than diffusers' usual ones are left as they are.

    With `joining`, what they read is also projected by one product where that is quicker than three.
    """
    for module in unet.modules():
        if isinstance(module, Attention) and not module.is_cross_attention and _is_usual(module):
            module.processor = _OnTheFastest(choice, joining)
            if joining is not None:
                lay_together(module)


def _is_usual(attention: Any) -> bool:
    return is_usual(attention, replaced_by=_OnTheFastest) and attention.inner_kv_dim == attention.inner_dim


class _OnTheFastest(AttnProcessor2_0):  # type: ignore[misc]  # diffusers is untyped
    def __init__(self, choice: AttentionChoice, joining: JoiningChoice | None) -> None:
        super().__init__()
        self._choice = choice
        self._joining = joining

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None or attention_mask is not None or getattr(attn, "fused_projections", False):
            told: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return told
        samples, tokens, inputs = hidden_states.shape
        shape = (samples, attn.heads, tokens, attn.inner_dim // attn.heads)
        attend = self._choice.of(shape)

        def attended(sides: Iterable[Tensor]) -> Tensor:
            query, key, value = (side.view(samples, tokens, attn.heads, shape[-1]).transpose(1, 2) for side in sides)
            return attend(query, key, value)

        def apart() -> Tensor:
            return attended(side(hidden_states) for side in (attn.to_q, attn.to_k, attn.to_v))

        way = apart
        if self._joining is not None and (weight := joined_weight(attn)) is not None:

            def joined(weight: Tensor = weight) -> Tensor:
                return attended(linear(hidden_states, weight).chunk(3, dim=-1))

            # With the attention itself, which may like one of the two layouts of memory better.
            way = joined if self._joining.is_quicker((*shape, inputs), joined, apart) else apart
        seen = way()
        # The second of the outputs is a dropout, which does nothing in a network that draws.
        output: Tensor = attn.to_out[0](seen.transpose(1, 2).reshape(samples, tokens, attn.inner_dim))
        return output
