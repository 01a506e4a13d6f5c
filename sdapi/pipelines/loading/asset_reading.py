"""LoRAs, embeddings and VAEs from their files to one model's device; whatever is wrong is told in a sentence that names the field."""

from __future__ import annotations

import logging
from typing import Any

from sdapi.catalog import Asset, AssetKind, Assets, Refused
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.pipelines.added.loras import Lora, LoraReader
from sdapi.pipelines.added.vaes import Vae, VaeReader
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.loading.placement import device_of, dtype_of
from sdapi.pipelines.loading.reading_errors import READING_ERRORS
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS
from sdapi.pipelines.words.embeddings import Embedding, EmbeddingReader

_log = logging.getLogger(__name__)

Addition = Lora | Embedding | Vae

_FIELDS: dict[AssetKind, str] = {"lora": "lora_model", "embedding": "embeddings_model", "vae": "vae"}
"""Which field of a request names each kind."""

_WORDS: dict[AssetKind, str] = {"lora": "LoRA", "embedding": "textual inversion", "vae": "VAE"}
"""What clients are told each kind is."""


class AssetReader:
    """Finds and reads what one model can take."""

    def __init__(self, model_id: str, parts: UnetComponents, assets: Assets | None) -> None:
        """None for `assets`: nothing is installed."""
        self._model_id = model_id
        self._assets = assets
        self._readers: dict[AssetKind, Any] = {
            "lora": LoraReader(parts.unet, *parts.text_encoders),
            "embedding": EmbeddingReader(*parts.text_encoders),
            "vae": VaeReader(
                parts.vae, device=device_of(parts.unet), dtype=dtype_of(parts.vae), configs_dir=SHIPPED_CONFIGS / parts.family
            ),
        }
        self._found: dict[str, Asset] = {}

    def installed(self, kind: AssetKind) -> list[Asset]:
        """Every asset of the kind, by id."""
        return [] if self._assets is None else self._assets.all(kind)

    def find(self, kind: AssetKind, asset_id: str) -> str:
        """What `read` knows the asset by; another name once its file was replaced. Raises InvalidRequest where it is gone."""
        try:
            if self._assets is None:
                raise ModelNotFound(asset_id, ())
            asset = self._assets.get(kind, asset_id)
        except ModelNotFound as error:
            sentence = f"There is no {_WORDS[kind]} named {asset_id!r} on this server."
            raise InvalidRequest.of(_FIELDS[kind], sentence) from error
        name = f"{kind} {asset.id} of {asset.modified_at.isoformat()}, {asset.size_bytes} bytes"
        self._found[name] = asset
        return name

    def read(self, name: str) -> Addition:
        """Blocks, for seconds where the disk is slow. Raises InvalidRequest where it is damaged or made for another kind of model."""
        asset = self._found[name]
        field, word = _FIELDS[asset.kind], _WORDS[asset.kind]
        try:
            read: Addition = self._readers[asset.kind].read(asset)
        except Refused as refusal:
            sentence = f"The {word} {asset.id!r} can't be used with the model {self._model_id!r}: {refusal}"
            raise InvalidRequest.of(field, sentence) from refusal
        except READING_ERRORS as error:
            _log.exception("an asset can't be read", extra={"kind": asset.kind, "asset": asset.id})
            raise InvalidRequest.of(field, f"The {word} {asset.id!r} can't be read: its file is damaged.") from error
        return read
