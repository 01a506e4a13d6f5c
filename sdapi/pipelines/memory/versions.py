"""What tells the files of a model apart from others of its name: a copy of weights must not outlive the files they were read from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path

from sdapi.catalog import Asset, Assets, Catalog, Checkpoint, Refused
from sdapi.domain.errors import ModelNotFound
from sdapi.domain.models_in_memory import film_ids


class ModelVersions:
    """As the files are now; None for what isn't there, of which loading will say what is wrong. Touches the disk."""

    def __init__(self, catalog: Catalog, assets: Assets) -> None:
        self._catalog = catalog
        self._assets = assets

    def model(self, model_id: str) -> Hashable | None:
        """Of a checkpoint, or of what draws films."""
        try:
            if (film_model := film_ids(model_id)) is None:
                return _version(self._catalog.get(model_id))
            name, adapter = film_model
            if adapter is None:
                return _version(self._assets.films.get(name))
            return _version(self._assets.films.get(adapter)), _version(self._catalog.get(name))
        except (ModelNotFound, Refused, OSError):
            return None

    def control_net(self, net_id: str) -> Hashable | None:
        """Of a control net."""
        try:
            return _version(self._assets.get("controlnet", net_id))
        except (ModelNotFound, OSError):
            return None

    def upscaler(self, upscaler_id: str) -> Hashable | None:
        """Of an upscaler."""
        try:
            return _version(self._assets.get("upscaler", upscaler_id))
        except (ModelNotFound, OSError):
            return None


def _version(model: Checkpoint | Asset) -> Hashable:
    """With the entry itself, in which the sidecar's choices are. Raises OSError."""
    inside: Iterable[Path] = model.path.rglob("*") if model.path.is_dir() else ()
    files = sorted({model.path, *model.weights, *inside})
    return model, tuple((file, *_stamp(file)) for file in files)


def _stamp(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
