"""LoRAs, embeddings and VAEs that were read for one model: kept while they are asked for, the least recently used leaving first."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from safetensors import SafetensorError

from sdapi.catalog import Asset, AssetKind, Assets, Refused
from sdapi.domain.errors import InvalidRequest, ModelNotFound

from .residency import HasSize

_log = logging.getLogger(__name__)

# What reading damaged or mislabelled files raises, in safetensors, torch and diffusers; there is no common base.
_READING_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, SafetensorError)

FIELDS = {"lora": "lora_model", "embedding": "embeddings_model", "vae": "vae"}
"""Which field of a request names each kind."""

WORDS = {"lora": "LoRA", "embedding": "textual inversion", "vae": "VAE"}
"""What clients are told each kind is."""

ThingT = TypeVar("ThingT", bound=HasSize)

_Key = tuple[str, datetime, int]


class AssetShelf(Generic[ThingT]):
    """Assets of one kind as one model uses them; for use from one thread.

    What a picture in flight uses stays alive by the picture's own reference, whatever leaves the shelf.
    """

    def __init__(
        self, assets: Assets | None, kind: AssetKind, read: Callable[[Asset], ThingT], *, model_id: str, budget_bytes: int
    ) -> None:
        """`read` raises Refused where the file does not fit the model. None for `assets`: nothing is installed."""
        self._assets = assets
        self._kind = kind
        self._read = read
        self._model_id = model_id
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[_Key, ThingT] = OrderedDict()

    def installed(self) -> list[Asset]:
        """Every asset of the kind, by id."""
        return [] if self._assets is None else self._assets.all(self._kind)

    def get(self, asset_id: str) -> ThingT:
        """The asset, read from disk unless it is kept; a file that was replaced is read again.

        Raises InvalidRequest, naming the field and the asset, where it is gone, damaged, or made for another family.
        """
        field, word = FIELDS[self._kind], WORDS[self._kind]
        try:
            if self._assets is None:
                raise ModelNotFound(asset_id, ())
            asset = self._assets.get(self._kind, asset_id)
        except ModelNotFound as error:
            raise InvalidRequest.of(field, f"There is no {word} named {asset_id!r} on this server.") from error
        key = (asset.id, asset.modified_at, asset.size_bytes)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        try:
            thing = self._read(asset)
        except Refused as refusal:
            sentence = f"The {word} {asset_id!r} can't be used with the model {self._model_id!r}: {refusal}"
            raise InvalidRequest.of(field, sentence) from refusal
        except _READING_ERRORS as error:
            _log.exception("an asset can't be read", extra={"kind": self._kind, "asset": asset_id})
            raise InvalidRequest.of(field, f"The {word} {asset_id!r} can't be read: its file is damaged.") from error
        self._kept[key] = thing
        self._shrink()
        return thing

    def clear(self) -> int:
        """Forget everything; how many bytes it took."""
        freed = sum(thing.size_bytes for thing in self._kept.values())
        self._kept.clear()
        return freed

    def _shrink(self) -> None:
        total = sum(thing.size_bytes for thing in self._kept.values())
        while total > self._budget_bytes and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            total -= gone.size_bytes
