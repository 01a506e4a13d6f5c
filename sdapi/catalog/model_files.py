"""How much there is to read before a model can be drawn with."""

from __future__ import annotations

from sdapi.domain.errors import ModelNotFound
from sdapi.domain.models_in_memory import film_ids, upscaler_id

from .assets import Assets
from .listing import Catalog


def files_bytes(entry: str, catalog: Catalog, assets: Assets) -> int:
    """Of the weights on disk of a checkpoint, or of what `models_in_memory` has a name for; 0 for what isn't there."""
    try:
        if (upscaler := upscaler_id(entry)) is not None:
            return assets.get("upscaler", upscaler).size_bytes
        if (film_model := film_ids(entry)) is not None:
            name, adapter = film_model
            if adapter is None:
                return assets.films.get(name).size_bytes
            return assets.films.get(adapter).size_bytes + catalog.get(name).size_bytes
        return catalog.get(entry).size_bytes
    except ModelNotFound:
        return 0
