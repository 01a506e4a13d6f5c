"""What a request lays over its checkpoint: LoRAs, textual inversions, another VAE. Read beside the drawing, kept while they are used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdapi.catalog import Assets
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.added.loras import Applied, Lora
from sdapi.pipelines.added.vaes import Vae
from sdapi.pipelines.loading.asset_reading import Addition, AssetReader
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.words.embeddings import Embedding, mentions, placed
from sdapi.pipelines.words.prompts import PromptChanges

_log = logging.getLogger(__name__)

_UNLIMITED = 2**62


@dataclass(frozen=True)
class Additions:
    """What one request adds, ready for use."""

    prompt: str
    negative_prompt: str
    """The request's prompts, in which every textual inversion it names stands somewhere."""
    changes: PromptChanges
    vae: Any
    """The network that encodes and decodes: the model's own unless the request names another."""

    @property
    def loras(self) -> tuple[Applied, ...]:
        """Those for the UNet too."""
        return self.changes.loras


@dataclass(frozen=True)
class _Wanted:
    """What one request names, as the reader knows it."""

    loras: tuple[str, ...]
    """In the order of the request."""
    embeddings: tuple[str, ...]
    vae: str | None
    mentioned: frozenset[str]
    """Embeddings that merely stand in a prompt: one that doesn't fit the model is a word like any other then."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.loras, *self.embeddings, *(() if self.vae is None else (self.vae,)), *sorted(self.mentioned))))


class AdditionLeases:
    """What one job keeps in memory of them."""

    def __init__(self, shelf: Residency[Addition], wanted: _Wanted) -> None:
        self._shelf = shelf
        self._wanted = wanted
        self._held: dict[str, Addition] = {}
        self._useless: set[str] = set()

    def acquire(self) -> bool:
        """Whether everything is in memory; what isn't is being read. Raises InvalidRequest where something can't be used."""
        for name in self._wanted.names:
            if name in self._held or name in self._useless:
                continue
            try:
                addition = self._shelf.lease(name)
            except InvalidRequest as refusal:
                if name not in self._wanted.mentioned:
                    raise
                _log.info("a prompt names a textual inversion that can't be used", extra={"embedding": name, "reason": str(refusal)})
                self._useless.add(name)
                continue
            if addition is not None:
                self._held[name] = addition
        return len(self._held) + len(self._useless) == len(self._wanted.names)

    def release(self) -> None:
        """Give everything back. Rows that still hold something of it keep it alive themselves."""
        for name in self._held:
            self._shelf.release(name)
        self._held = {}

    def additions(self, request: Txt2Img | Img2Img | Inpaint | ControlNet, own_vae: Any) -> Additions:
        """What the request makes of them, once everything is there."""
        loras = [self._held[name] for name in self._wanted.loras]
        named = _embeddings([self._held[name] for name in self._wanted.embeddings])
        mentioned = _embeddings([self._held[name] for name in sorted(self._wanted.mentioned - self._useless)])
        prompt, negative_prompt = placed(request.prompt, request.negative_prompt, named)
        vae = None if self._wanted.vae is None else self._held[self._wanted.vae]
        applied = tuple(Applied(lora, use.strength) for lora, use in zip(loras, request.loras, strict=True) if isinstance(lora, Lora))
        network = vae.network if isinstance(vae, Vae) else own_vae
        return Additions(prompt, negative_prompt, PromptChanges(applied, (*named, *mentioned)), network)


class AdditionShelves:
    """Finds what requests add to one model, and keeps it; for use from the device thread only, reading happens on another."""

    def __init__(self, model_id: str, parts: UnetComponents, assets: Assets | None, memory: Memory | None = None) -> None:
        """None for `assets`: nothing is installed. `memory` is what the model shares with others; None: it has no limit."""
        self._own_vae = parts.vae
        self._memory = memory or Memory(_UNLIMITED)
        self._reader = AssetReader(model_id, parts, assets)
        self._shelf: Residency[Addition] = Residency(self._reader.read, self._memory)

    def leases(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> AdditionLeases:
        """For a job that waits until everything is there. Raises InvalidRequest, naming the field, where something is gone."""
        loras = tuple(self._reader.find("lora", use.id) for use in request.loras)
        embeddings = tuple(self._reader.find("embedding", embedding) for embedding in request.embeddings)
        vae = None if request.vae is None else self._reader.find("vae", request.vae)
        prompts = f"{request.prompt}\n{request.negative_prompt}"
        mentioned = [
            self._reader.find("embedding", asset.id)
            for asset in self._reader.installed("embedding")
            if any(mentions(prompts, word) for word in (asset.id, asset.trigger))
        ]
        return AdditionLeases(self._shelf, _Wanted(loras, embeddings, vae, frozenset(mentioned) - set(embeddings)))

    def of(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Additions:
        """Waits for what isn't there. Raises InvalidRequest where something is gone, damaged, or doesn't fit the model."""
        leases = self.leases(request)
        try:
            while not leases.acquire():
                self._memory.wait_for_load(0.05)
            return leases.additions(request, self._own_vae)
        finally:
            leases.release()

    def clear(self) -> int:
        """Forget what no picture in flight uses; how many bytes it took."""
        return self._shelf.evict_idle()


def _embeddings(additions: Sequence[Addition]) -> list[Embedding]:
    return [addition for addition in additions if isinstance(addition, Embedding)]
