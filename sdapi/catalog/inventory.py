"""Every model there is, of whatever kind, in one form: what an operator lists, looks at, checks and removes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from .annotators import FOLDER as ANNOTATORS
from .annotators import InstalledAnnotator
from .asset_inspection import ASSET_KINDS, KIND_FOLDERS, AssetKind
from .assets import Asset, Assets
from .checkpoint import CatalogProblem, Checkpoint, Layout, Sidecar, read_sidecar
from .embedded import EMBEDDED_ID
from .extents import extent_problems
from .faces import FOLDER as FACES
from .faces import InstalledFaceNetwork
from .films import FILMS_FOLDER
from .hashes import model_sha256
from .licences import licence_of
from .listing import Catalog
from .records import sidecar_path
from .safety import FOLDER as SAFETY
from .safety import WEIGHTS_NAME, InstalledChecker
from .translators import FOLDER as TRANSLATORS
from .translators import InstalledTranslator
from .weights import Refused

ModelKind = Literal["checkpoint", AssetKind]
MODEL_KINDS: tuple[ModelKind, ...] = ("checkpoint", *ASSET_KINDS)

HandPlacedKind = Literal["annotator", "safety", "translator", "video", "face"]
HAND_PLACED: Mapping[HandPlacedKind, str] = {
    "annotator": ANNOTATORS,
    "safety": SAFETY,
    "translator": TRANSLATORS,
    "video": FILMS_FOLDER,
    "face": FACES,
}
"""The folders of those that are put there by hand. Annotators have names that are known instead of ids."""

InventoryKind = Literal[ModelKind, HandPlacedKind]
INVENTORY_KINDS: tuple[InventoryKind, ...] = (*MODEL_KINDS, *HAND_PLACED)


@dataclass(frozen=True)
class InstalledModel:
    """One model that can be used."""

    id: str
    kind: InventoryKind
    family: str
    """Of a checkpoint; empty for the others."""
    path: Path
    layout: Layout
    weights: tuple[Path, ...]
    size_bytes: int
    """Of the weights on disk."""
    modified_at: datetime
    sidecar: Sidecar
    is_embedded: bool
    """Whether it ships with the code, so that it can't be removed."""

    @property
    def licence(self) -> str:
        """As its sidecar says, otherwise as it says itself. Reads a header or a model card."""
        return self.sidecar.licence or licence_of(self.path, self.layout)


class Inventory:
    """Looks at the models folder through the catalog and the assets, so it calls usable and unusable what they do."""

    def __init__(self, catalog: Catalog, assets: Assets, models_dir: Path) -> None:
        self._catalog = catalog
        self._assets = assets
        self._models_dir = models_dir

    def models(self, kind: InventoryKind | None = None) -> list[InstalledModel]:
        """Those of one kind, or all: checkpoints first, each kind by id."""
        return [model for one in INVENTORY_KINDS if kind in (None, one) for model in self._of_kind(one)]

    def named(self, model_id: str, kind: InventoryKind | None = None) -> list[InstalledModel]:
        """Those with that id, one for each kind; where there are none, the checkpoint whose sidecar has it as an alias."""
        models = self.models(kind)
        return [model for model in models if model.id == model_id] or [model for model in models if model_id in model.sidecar.aliases][:1]

    def problems(self, kind: InventoryKind | None = None) -> list[tuple[str, CatalogProblem]]:
        """What is there and can't be used, each with its kind; where that can't be told, an empty one."""
        told = [(self._kind_of(problem.path), problem) for problem in (*self._catalog.problems(), *self._assets.problems())]
        return [(found, problem) for found, problem in told if kind in (None, found)]

    def _of_kind(self, kind: InventoryKind) -> Iterator[InstalledModel]:
        if kind == "annotator":
            yield from map(_annotator, self._assets.annotators.installed().values())
            return
        if kind == "translator":
            yield from map(_translator, self._assets.translators.installed().values())
            return
        if kind == "safety":
            yield from map(_safety_checker, self._assets.safety.installed().values())
            return
        if kind == "face":
            yield from map(_face_network, self._assets.faces.installed())
            return
        if kind == "video":
            yield from map(_film_model, self._assets.films.all())
            return
        for found in self._catalog.all() if kind == "checkpoint" else self._assets.all(kind):
            yield self._installed(kind, found)

    def _installed(self, kind: ModelKind, found: Checkpoint | Asset) -> InstalledModel:
        is_embedded = found.path.parent != self._models_dir / KIND_FOLDERS[kind]
        own = found.path / "sidecar.toml"
        is_demo = isinstance(found, Checkpoint) and found.id == EMBEDDED_ID
        return InstalledModel(
            id=found.id,
            kind=kind,
            family=found.family if isinstance(found, Checkpoint) else "",
            path=found.path,
            layout=found.layout,
            weights=found.weights,
            size_bytes=found.size_bytes,
            modified_at=found.modified_at,
            sidecar=_sidecar(own if is_demo else sidecar_path(found.path, found.id)),
            is_embedded=is_embedded,
        )

    def _kind_of(self, path: Path) -> str:
        for kind, folder in (*KIND_FOLDERS.items(), *HAND_PLACED.items()):
            if self._models_dir / folder in (path, path.parent):
                return kind
        return ""


def damage(model: InstalledModel, on_bytes: Callable[[int], None] = lambda _: None) -> list[str]:
    """What is wrong with a model, in sentences: headers, extents of tensors, and the hash where one is recorded. Reads every byte."""
    problems: list[str] = []
    try:
        for path in model.weights:
            problems += extent_problems(path)
        sha256 = model_sha256(model.path, model.layout, on_bytes)
    except OSError as refusal:
        return [*problems, f"It can't be read: {refusal.strerror}."]
    recorded = model.sidecar.sha256
    if recorded and sha256 != recorded:
        what = "its file was changed" if model.layout == "single_file" else "a file was changed, added or taken away"
        problems.append(f"Its SHA-256 is {sha256}, but {recorded} is recorded in its sidecar: {what}.")
    return problems


def _annotator(found: InstalledAnnotator) -> InstalledModel:
    folder = found.path if found.path.is_dir() else found.path.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    return InstalledModel(
        id=found.name.value,
        kind="annotator",
        family="",
        path=folder,
        layout="diffusers",
        weights=tuple(sorted(path for path in files if path.suffix.lower() == ".safetensors")),
        size_bytes=found.size_bytes,
        modified_at=datetime.fromtimestamp(max((path.stat().st_mtime for path in files), default=0.0), UTC),
        sidecar=Sidecar(),
        is_embedded=False,
    )


def _safety_checker(found: InstalledChecker) -> InstalledModel:
    weights = found.network / WEIGHTS_NAME
    return InstalledModel(
        id=found.id,
        kind="safety",
        family="",
        path=found.path,
        layout="diffusers",
        weights=(weights,),
        size_bytes=found.size_bytes,
        modified_at=datetime.fromtimestamp(weights.stat().st_mtime, UTC),
        sidecar=Sidecar(),
        is_embedded=False,
    )


def _face_network(found: InstalledFaceNetwork) -> InstalledModel:
    return InstalledModel(
        id=found.path.parent.name,
        kind="face",
        family="",
        path=found.path.parent,
        layout="diffusers",
        weights=(found.path,),
        size_bytes=found.size_bytes,
        modified_at=datetime.fromtimestamp(found.path.stat().st_mtime, UTC),
        sidecar=Sidecar(),
        is_embedded=False,
    )


def _film_model(found: Checkpoint) -> InstalledModel:
    return InstalledModel(
        id=found.id,
        kind="video",
        family=found.family,
        path=found.path,
        layout=found.layout,
        weights=found.weights,
        size_bytes=found.size_bytes,
        modified_at=found.modified_at,
        sidecar=_sidecar(sidecar_path(found.path, found.id)),
        is_embedded=False,
    )


def _translator(found: InstalledTranslator) -> InstalledModel:
    return InstalledModel(
        id=found.id,
        kind="translator",
        family="",
        path=found.path,
        layout="diffusers",
        weights=found.weights,
        size_bytes=found.size_bytes,
        modified_at=datetime.fromtimestamp(max(path.stat().st_mtime for path in found.weights), UTC),
        sidecar=Sidecar(),
        is_embedded=False,
    )


def _sidecar(path: Path) -> Sidecar:
    try:
        return read_sidecar(path)
    except Refused:
        return Sidecar()  # it changed within this moment; the next look tells
