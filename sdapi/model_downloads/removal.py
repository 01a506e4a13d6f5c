"""Takes models out of the models folder."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from sdapi.catalog import EMBEDDED_ID, KIND_FOLDERS, embedded_asset_ids
from sdapi.catalog.inventory import HAND_PLACED, MODEL_KINDS, HandPlacedKind, ModelKind
from sdapi.domain.errors import InvalidRequest, ModelNotFound, NotAvailable

from .names import fits_as_id
from .staging import places_of, put_away


def remove_model(models_dir: Path, model_id: str, kinds: Collection[ModelKind] = MODEL_KINDS) -> tuple[ModelKind, ...]:
    """Remove the models of these kinds called `model_id`, with their sidecars; of which kinds there were some. Blocks.

    A link goes, what it leads to stays. Raises ModelNotFound, InvalidRequest for what is embedded, NotAvailable where the folder
    can't be written to.
    """
    if model_id == EMBEDDED_ID:
        raise InvalidRequest.of("model_id", f"The embedded model {EMBEDDED_ID!r} can't be deleted.")
    removed: list[ModelKind] = []
    try:
        # Only names found in the folder are ever made into paths; an id with slashes equals none of them.
        for kind in kinds:
            folder = models_dir / KIND_FOLDERS[kind]
            places = list(places_of(folder, model_id)) if fits_as_id(model_id) else []
            for path in places:
                put_away(models_dir, path)
            if places:
                removed.append(kind)
                sidecar = folder / f"{model_id}.toml"
                with suppress(FileNotFoundError, IsADirectoryError):
                    sidecar.unlink()
    except OSError as refusal:
        raise NotAvailable(f"The model can't be deleted: {refusal.strerror}.") from refusal
    if not removed and model_id in embedded_asset_ids():
        raise InvalidRequest.of("model_id", f"{model_id!r} belongs to the embedded model and can't be deleted.")
    if not removed:
        raise ModelNotFound(model_id, sorted(_ids(models_dir, kinds)))
    return tuple(removed)


def remove_hand_placed(models_dir: Path, kind: HandPlacedKind, name: str) -> None:
    """Remove the folder of the annotator, safety checker or translator of that name. Blocks.

    Raises ModelNotFound, and NotAvailable as `remove_model`.
    """
    folder = models_dir / HAND_PLACED[kind]
    try:
        places = [path for path in folder.iterdir() if path.name == name] if folder.is_dir() else []
        for path in places:
            put_away(models_dir, path)
    except OSError as refusal:
        raise NotAvailable(f"The model can't be deleted: {refusal.strerror}.") from refusal
    if not places:
        raise ModelNotFound(name, ())


def _ids(models_dir: Path, kinds: Collection[ModelKind]) -> set[str]:
    names: set[str] = set()
    for kind in kinds:
        with suppress(OSError):
            for path in (models_dir / KIND_FOLDERS[kind]).iterdir():
                if path.is_dir() or path.suffix.lower() == ".safetensors":
                    names.add(path.name if path.is_dir() else path.stem)
    return {name for name in names if not name.startswith(".")}
