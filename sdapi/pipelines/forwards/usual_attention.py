"""Which of a network's attentions may be computed in another way, because they do what diffusers' usual one does and nothing else."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0

_EXTRAS = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k", "add_k_proj")


def is_usual(attention: Any, *, replaced_by: type[Any]) -> bool:
    """Whether it is what `AttnProcessor2_0` does. `replaced_by` is what takes that one's place: it may be there already."""
    plain = all(getattr(attention, name, None) is None for name in _EXTRAS) and not attention.residual_connection
    known = type(attention.processor) in (AttnProcessor2_0, replaced_by)
    return known and plain and attention.rescale_output_factor == 1 and not getattr(attention, "fused_projections", False)
