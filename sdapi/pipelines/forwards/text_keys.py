"""Keys and values of a UNet's cross-attentions, computed once per prompt instead of at every step: they depend on the words alone.

A UNet hands its context on to its cross-attentions as it is. So what they make of it goes in the context's place: all keys and values of a
prompt lie one after the other in one row of numbers, and each attention takes its own. A batch is one stack of such rows, and the network
stays free of state: whoever gives it tokens still gets diffusers' own attention.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional

from sdapi.pipelines.added.loras import Applied, applied
from sdapi.pipelines.guidance.halves import Words
from sdapi.pipelines.loading.placement import dtype_of

from .usual_attention import is_usual

_LEAST_BUDGET_BYTES = 64 * 2**20
_BUDGET_SHARE = 8
"""Of the network's own bytes: about 56 prompts of Stable Diffusion 1, 25 of XL, whose keys and values are large."""


class TextKeys:
    """Of one loaded UNet; for use from the device thread only."""

    def __init__(self, unet: Any, attentions: dict[str, Any], *, budget_bytes: int) -> None:
        """`attentions` are the cross-attentions by their paths; see `text_keys_of`."""
        self._unet = unet
        self._attentions = attentions
        self._changeable = frozenset(f"{path}.{name}" for path in attentions for name in ("to_k", "to_v"))
        width = sum(2 * attention.inner_kv_dim for attention in attentions.values())
        self._bytes_per_token = width * dtype_of(unet).itemsize
        self._budget_bytes = budget_bytes
        self._prompts = _Shelf(budget_bytes)
        self._batches = _Shelf(budget_bytes)
        start = 0
        for attention in attentions.values():
            attention.processor = _ReadyKeys(start, width)
            start += 2 * attention.inner_kv_dim

    def of(self, words: Sequence[Words], loras: Sequence[Sequence[Applied]]) -> Tensor | None:
        """(samples, numbers), to be given to the UNet as its context; None when that would take more than the budget.

        `words` and `loras` have one entry per sample. A LoRA's part in keys and values is in them already. The same object comes back
        while the same samples do, so that a batch costs nothing until somebody joins or leaves it; nobody may write into it.
        """
        if sum(len(each.context) for each in words) * self._bytes_per_token > self._budget_bytes:
            return None
        rows = [self._row(each, tuple(uses)) for each, uses in zip(words, loras, strict=True)]
        if len(rows) == 1:
            return rows[0][None]
        who = tuple(id(row) for row in rows)
        if (found := self._batches.get(who)) is not None:
            return found.tensor
        stacked = torch.stack(rows)
        # The rows are kept along: as long as they are, nothing else can have their ids.
        self._batches.put(who, _Kept(stacked, alive=tuple(rows)))
        return stacked

    def clear(self) -> int:
        """Forget them; how many bytes they took."""
        return self._batches.clear() + self._prompts.clear()

    def _row(self, words: Words, loras: tuple[Applied, ...]) -> Tensor:
        mine = tuple(use for use in loras if use.strength and not self._changeable.isdisjoint(use.lora.unet))
        # By version, not by the LoRA itself: one that has left memory must not be kept there by what it once changed.
        key = (id(words), tuple((use.lora.version, use.strength) for use in mine))
        found = self._prompts.get(key)
        if found is not None and isinstance(found.alive, weakref.ref) and found.alive() is words:
            return found.tensor
        with applied(self._unet, "unet", [mine]):
            context = words.context[None]
            parts = [side(context).flatten() for each in self._attentions.values() for side in (each.to_k, each.to_v)]
        row = torch.cat(parts)
        prompts = self._prompts
        self._prompts.put(key, _Kept(row, alive=weakref.ref(words, lambda _: prompts.drop(key))))
        return row


def text_keys_of(unet: Any, *, budget_bytes: int | None = None) -> TextKeys | None:
    """For a UNet all of whose cross-attentions are of the usual kind; None for others, and those that have none.

    Its attentions then understand both tokens and ready keys and values. Calling it again for the same network does no harm.
    """
    attentions = {path: module for path, module in unet.named_modules() if isinstance(module, Attention) and module.is_cross_attention}
    has_own_words = unet.config.get("encoder_hid_dim_type") is None and getattr(unet, "encoder_hid_proj", None) is None
    if not attentions or not has_own_words or not all(is_usual(attention, replaced_by=_ReadyKeys) for attention in attentions.values()):
        return None
    own_bytes = sum(parameter.nbytes for parameter in unet.parameters())
    return TextKeys(unet, attentions, budget_bytes=budget_bytes or max(_LEAST_BUDGET_BYTES, own_bytes // _BUDGET_SHARE))


class _ReadyKeys(AttnProcessor2_0):  # type: ignore[misc]  # diffusers is untyped
    """As diffusers' attention, which also takes a prompt's ready keys and values in the place of its tokens."""

    def __init__(self, start: int, width: int) -> None:
        """`width` numbers per token make up a prompt's row; this attention's begin after `start` of them for every token."""
        super().__init__()
        self._start = start
        self._width = width

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See AttnProcessor2_0. Ready ones are (samples, numbers), tokens (samples, tokens, width)."""
        if encoder_hidden_states is None or encoder_hidden_states.ndim != 2:
            told: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return told
        samples, numbers = encoder_hidden_states.shape
        heads = (attn.heads, attn.inner_kv_dim // attn.heads)
        tokens = numbers // self._width
        start, size = tokens * self._start, tokens * attn.inner_kv_dim
        sides = (encoder_hidden_states[:, at : at + size].view(samples, tokens, *heads) for at in (start, start + size))
        query = attn.to_q(hidden_states).view(samples, -1, *heads)
        query, key, value = (side.transpose(1, 2) for side in (query, *sides))
        attended = functional.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).reshape(samples, -1, attn.inner_kv_dim)
        # The second is a dropout, which does nothing in a network that draws.
        output: Tensor = attn.to_out[0](attended)
        return output


@dataclass(frozen=True)
class _Kept:
    tensor: Tensor
    alive: object
    """What must be there as long as it: of a prompt's row a weak reference to the words, of a batch's stack the rows."""


class _Shelf:
    """What was used last, up to so many bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def get(self, key: Hashable) -> _Kept | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, kept: _Kept) -> None:
        self._kept[key] = kept
        while len(self._kept) > 1 and self.size_bytes > self._budget_bytes:
            self._kept.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        self._kept.pop(key, None)

    @property
    def size_bytes(self) -> int:
        return sum(kept.tensor.nbytes for kept in self._kept.values())

    def clear(self) -> int:
        freed = self.size_bytes
        self._kept.clear()
        return freed
