"""What a request lays over its checkpoint: LoRAs, textual inversions, another VAE. Everything is looked up once, when rows are prepared."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from sdapi.catalog import Assets
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img

from .asset_shelf import AssetShelf
from .embeddings import Embedding, EmbeddingReader, mentions, placed
from .loader import Sd1Components
from .loras import Applied, Lora, LoraReader
from .prompts import PromptChanges
from .vaes import Vae, VaeReader

_log = logging.getLogger(__name__)

_LORA_BYTES = 2**30
_EMBEDDING_BYTES = 2**26
_VAE_BYTES = 2**30
"""What is kept for each loaded model; a LoRA of rank 128 has about 150 MB in half precision, a VAE 170 MB."""


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


class AdditionShelves:
    """Finds what requests add to one model; for use from the device thread only."""

    def __init__(self, model_id: str, parts: Sd1Components, assets: Assets | None) -> None:
        """None for `assets`: nothing is installed."""
        self._own_vae = parts.vae
        self._loras: AssetShelf[Lora] = AssetShelf(
            assets, "lora", LoraReader(parts.unet, parts.text_encoder).read, model_id=model_id, budget_bytes=_LORA_BYTES
        )
        self._embeddings: AssetShelf[Embedding] = AssetShelf(
            assets, "embedding", EmbeddingReader(parts.text_encoder).read, model_id=model_id, budget_bytes=_EMBEDDING_BYTES
        )
        vaes = VaeReader(parts.vae, device=parts.unet.device, dtype=parts.unet.dtype)
        self._vaes: AssetShelf[Vae] = AssetShelf(assets, "vae", vaes.read, model_id=model_id, budget_bytes=_VAE_BYTES)

    def of(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Additions:
        """Reads what isn't kept. Raises InvalidRequest, naming the field, where something is gone, damaged, or doesn't fit the model."""
        loras = tuple(Applied(self._loras.get(use.id), use.strength) for use in request.loras)
        named = [self._embeddings.get(embedding) for embedding in request.embeddings]
        mentioned = self._mentioned(f"{request.prompt}\n{request.negative_prompt}", known={embedding.version for embedding in named})
        prompt, negative_prompt = placed(request.prompt, request.negative_prompt, named)
        vae = self._own_vae if request.vae is None else self._vaes.get(request.vae).network
        return Additions(prompt, negative_prompt, PromptChanges(loras, (*named, *mentioned)), vae)

    def clear(self) -> int:
        """Forget what no picture in flight uses; how many bytes it took."""
        return self._loras.clear() + self._embeddings.clear() + self._vaes.clear()

    def _mentioned(self, prompts: str, *, known: set[str]) -> list[Embedding]:
        """Those whose names stand in the prompts. One that doesn't fit the model is a word like any other then."""
        found: list[Embedding] = []
        for asset in self._embeddings.installed():
            if not any(mentions(prompts, word) for word in (asset.id, asset.trigger)):
                continue
            try:
                embedding = self._embeddings.get(asset.id)
            except InvalidRequest as refusal:
                _log.info("a prompt names a textual inversion that can't be used", extra={"embedding": asset.id, "reason": str(refusal)})
                continue
            if embedding.version not in known:
                found.append(embedding)
        return found
