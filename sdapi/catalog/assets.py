"""The models beside the checkpoints: LoRAs, embeddings, ControlNets, VAEs and upscalers, looked at again when their folders change."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sdapi.domain.errors import ModelNotFound

from .asset_inspection import ASSET_KINDS, KIND_FOLDERS, AssetKind, inspect_asset
from .checkpoint import CatalogProblem, Layout, read_sidecar
from .scan import Entry, Signature, entries
from .weights import Refused

_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Asset:
    """One model that changes or finishes what a checkpoint draws."""

    id: str
    kind: AssetKind
    path: Path
    """The file, or the folder."""
    layout: Layout
    size_bytes: int
    """Of the weights on disk."""
    modified_at: datetime
    """Of the newest weights file, UTC."""
    weights: tuple[Path, ...] = ()
    """The files that hold tensors."""
    title: str = ""
    trigger: str = ""
    """Words it was trained to answer to, from its sidecar."""


@dataclass(frozen=True)
class _Listing:
    """One consistent look, replaced as a whole so that readers need no lock."""

    by_id: Mapping[AssetKind, Mapping[str, Asset]] = field(default_factory=lambda: {kind: {} for kind in ASSET_KINDS})
    problems: tuple[CatalogProblem, ...] = ()


class Assets:
    """What lies in `loras/`, `embeddings/`, `controlnets/`, `vaes/` and `upscalers/`. Any thread may use it.

    Like Catalog: at most once a second a call looks whether a folder changed and reads the headers of what did, so call it from a
    thread where touching the disk matters. `clock` counts seconds.
    """

    def __init__(self, models_dir: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._models_dir = models_dir
        self._clock = clock
        self._looking = threading.Lock()
        self._looked_at_s: float | None = None
        self._known: dict[tuple[AssetKind, Entry], tuple[Signature, Asset | CatalogProblem]] = {}
        self._listing = _Listing()

    def all(self, kind: AssetKind) -> list[Asset]:
        """Every usable asset of a kind, by id."""
        self.refresh()
        return [asset for _, asset in sorted(self._listing.by_id[kind].items())]

    def get(self, kind: AssetKind, asset_id: str) -> Asset:
        """The asset of that id. Names are only looked up, never made into paths. Raises ModelNotFound."""
        self.refresh()
        known = self._listing.by_id[kind]
        if asset_id not in known:
            raise ModelNotFound(asset_id, sorted(known))
        return known[asset_id]

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used, or is named twice."""
        self.refresh()
        return list(self._listing.problems)

    def refresh(self) -> None:
        """Look at the folders again, unless that was done within the last second."""
        with self._looking:
            now_s = self._clock()
            if self._looked_at_s is None or now_s - self._looked_at_s >= _LOOK_AGAIN_S:
                self._listing = self._look()
                self._looked_at_s = now_s

    def _look(self) -> _Listing:
        by_id: dict[AssetKind, dict[str, Asset]] = {kind: {} for kind in ASSET_KINDS}
        problems: list[CatalogProblem] = []
        known: dict[tuple[AssetKind, Entry], tuple[Signature, Asset | CatalogProblem]] = {}
        for kind in ASSET_KINDS:
            folder = self._models_dir / KIND_FOLDERS[kind]
            try:
                for entry in entries(folder, None, what=kind):
                    found = self._inspected(kind, entry, known) if isinstance(entry, Entry) else entry
                    if isinstance(found, Asset):
                        by_id[kind][found.id] = found
                    else:
                        problems.append(found)
            except OSError as refusal:
                problems.append(CatalogProblem(folder, f"The folder can't be listed: {refusal.strerror}."))
        self._known = known
        return _Listing(by_id, tuple(problems))

    def _inspected(
        self, kind: AssetKind, entry: Entry, known: dict[tuple[AssetKind, Entry], tuple[Signature, Asset | CatalogProblem]]
    ) -> Asset | CatalogProblem:
        try:
            signature = entry.signature()
        except OSError as refusal:
            return CatalogProblem(entry.path, f"It can't be read: {refusal.strerror}.")
        before = self._known.get((kind, entry))
        now = before if before is not None and before[0] == signature else (signature, _inspect(kind, entry))
        known[kind, entry] = now
        return now[1]


def _inspect(kind: AssetKind, entry: Entry) -> Asset | CatalogProblem:
    try:
        weights = inspect_asset(kind, entry.path, entry.layout)
        sidecar = read_sidecar(entry.sidecar)
        stats = [file.stat() for file in weights]
    except Refused as refusal:
        return CatalogProblem(entry.path, str(refusal))
    except OSError as refusal:
        return CatalogProblem(entry.path, f"It can't be read: {refusal.strerror or os.strerror(refusal.errno or 0)}.")
    return Asset(
        id=entry.id,
        kind=kind,
        path=entry.path,
        layout=entry.layout,
        size_bytes=sum(stat.st_size for stat in stats),
        modified_at=datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC),
        weights=weights,
        title=sidecar.title,
        trigger=sidecar.trigger,
    )
