"""Token merging: similar places of a picture share one token while self-attention looks over it, which then has half as many.

Bipartite soft matching of Bolya & Hoffman 2023 ("Token Merging for Fast Stable Diffusion"), for self-attention only and always with the
top left token of every 2 x 2 as the ones merged into: picking them by chance would make a picture depend on its neighbours. Acts where
attention is at its finest, and so dearest. Hooks stand on the blocks only while a forward runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from sdapi.pipelines.scheduling.row import BatchKey

_MERGED = 0.5
"""Share of the tokens that are merged into others: the most its authors recommend."""
_CELL = 2
"""Side of the squares in which one token each takes in others."""


class Merge:
    """Which tokens are merged into which; every sample has its own choice."""

    def __init__(self, tokens: Tensor, *, height: int, width: int) -> None:
        """`tokens` is (samples, height * width, channels): the alike ones are those that point the same way."""
        samples, count, _ = tokens.shape
        across, down = torch.arange(width, device=tokens.device), torch.arange(height, device=tokens.device)
        # Cells cut off by the edge have nobody to merge into.
        takes_in = ((down % _CELL == 0) & (down < height // _CELL * _CELL))[:, None] & (
            (across % _CELL == 0) & (across < width // _CELL * _CELL)
        )
        # Sorted, because looking for those that are not zero would wait for the device, to learn how many there are.
        places = takes_in.flatten().to(torch.uint8).argsort(stable=True)
        others = count - (height // _CELL) * (width // _CELL)
        sources, self.targets = places[:others], places[others:]
        directions = tokens / tokens.norm(dim=-1, keepdim=True)
        likeness, nearest = (directions[:, sources] @ directions[:, self.targets].transpose(-1, -2)).max(dim=-1)
        order = likeness.argsort(dim=-1, descending=True, stable=True)
        merged = min(len(sources), int(count * _MERGED))
        chosen = order[:, :merged]
        self._into = nearest.gather(1, chosen)
        """(samples, merged): which of the targets takes a token in."""
        self._merged = sources[chosen]
        self._kept = sources[order[:, merged:]]
        self._everyone = torch.cat([self._kept, self.targets.expand(samples, -1), self._merged], dim=1)

    def merged(self, tokens: Tensor) -> Tensor:
        """The tokens that are left, those kept first; a merged one's target becomes the mean of all that went into it."""
        targets = tokens[:, self.targets].scatter_reduce(1, _wide(self._into, tokens), _picked(tokens, self._merged), reduce="mean")
        return torch.cat([_picked(tokens, self._kept), targets], dim=1)

    def restored(self, left: Tensor) -> Tensor:
        """As many tokens as there were, in their places; a merged one gets its target's."""
        targets = left[:, self._kept.shape[1] :]
        everyone = torch.cat([left, _picked(targets, self._into)], dim=1)
        return torch.empty_like(everyone).scatter_(1, _wide(self._everyone, everyone), everyone)


class _Merging:
    """The hooks on one transformer block: look at its tokens, merge what its self-attention reads, restore what comes out of it."""

    def __init__(self, *, height: int, width: int) -> None:
        self._height = height
        self._width = width
        self._merge: Merge | None = None

    def look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002 - a hook's signature
        tokens = args[0] if args else kwargs["hidden_states"]
        self._merge = Merge(tokens, height=self._height, width=self._width)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:  # noqa: ARG002 - as above
        assert self._merge is not None  # noqa: S101 - the block runs before its attention
        return (self._merge.merged(args[0]), *args[1:]), kwargs

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002 - as above
        assert self._merge is not None  # noqa: S101 - as above
        merge, self._merge = self._merge, None
        return merge.restored(output)


@contextmanager
def merging(unet: Any, key: BatchKey) -> Iterator[None]:
    """While it is open, forwards of rows of this key merge tokens, if the key says so. Models that attend in their middle only don't."""
    level = next((level for level, block in enumerate(unet.down_blocks) if getattr(block, "attentions", None)), None)
    with ExitStack() as hooks:
        if key.merges_tokens and level is not None and min(key.latent_height, key.latent_width) >= _CELL * 2**level:
            size = {"height": -(-key.latent_height // 2**level), "width": -(-key.latent_width // 2**level)}
            for module in (*unet.down_blocks[level].modules(), *unet.up_blocks[-1 - level].modules()):
                if isinstance(module, BasicTransformerBlock) and not module.only_cross_attention:
                    merging_it = _Merging(**size)
                    hooks.callback(module.register_forward_pre_hook(merging_it.look, with_kwargs=True).remove)
                    hooks.callback(module.attn1.register_forward_pre_hook(merging_it.before, with_kwargs=True).remove)
                    hooks.callback(module.attn1.register_forward_hook(merging_it.after).remove)
        yield


def _wide(places: Tensor, tokens: Tensor) -> Tensor:
    return places[:, :, None].expand(-1, -1, tokens.shape[-1])


def _picked(tokens: Tensor, places: Tensor) -> Tensor:
    return tokens.gather(1, _wide(places, tokens))
