"""Short hashes by which A1111's web interface and model sites know LoRAs, textual inversions and VAEs again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from .asset_inspection import AssetKind
from .assets import Asset

_CHUNK_BYTES = 2**20
_DIGITS: Mapping[AssetKind, int] = {"lora": 12, "embedding": 12}
_OTHER_DIGITS = 10


class AssetHashes:
    """Remembers what it has read; any thread may use it."""

    def __init__(self) -> None:
        self._reading = threading.Lock()
        self._known: dict[tuple[Path, int, datetime], str] = {}

    def of(self, asset: Asset) -> str:
        """First hex digits, 10 or 12, of the SHA-256 of the weights; of a LoRA without the file's header, which tools rewrite.

        Reads every byte the first time (call it in a thread), then remembers. Raises OSError.
        """
        key = (asset.path, asset.size_bytes, asset.modified_at)
        with self._reading:
            if key not in self._known:
                digest = hashlib.sha256()
                for path in asset.weights:
                    with path.open("rb") as file:
                        if asset.kind == "lora":
                            file.seek(8 + int.from_bytes(file.read(8), "little"))
                        while chunk := file.read(_CHUNK_BYTES):
                            digest.update(chunk)
                self._known[key] = digest.hexdigest()[: _DIGITS.get(asset.kind, _OTHER_DIGITS)]
            return self._known[key]
