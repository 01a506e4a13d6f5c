"""The models beside the checkpoints: LoRAs, embeddings, ControlNets, VAEs and upscalers, looked at again when their folders change."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sdapi.domain.errors import ModelNotFound

from .annotators import Annotators
from .asset_inspection import ASSET_KINDS, KIND_FOLDERS, AssetKind, inspect_asset
from .checkpoint import CatalogProblem, Layout, read_sidecar
from .faces import FaceNetworks
from .films import open_films
from .safety import SafetyCheckers
from .scan import Entry, Signature, entries
from .translators import Translators
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
    aliases: tuple[str, ...] = ()
    """Other names it can be asked for by, from its sidecar."""

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a folder of several networks that work together, as some upscalers are."""
        return self.layout == "diffusers" and any(file.parent != self.path for file in self.weights)


@dataclass(frozen=True)
class _Listing:
    """One consistent look, replaced as a whole so that readers need no lock."""

    by_id: Mapping[AssetKind, Mapping[str, Asset]] = field(default_factory=lambda: {kind: {} for kind in ASSET_KINDS})
    by_alias: Mapping[AssetKind, Mapping[str, Asset]] = field(default_factory=lambda: {kind: {} for kind in ASSET_KINDS})
    problems: tuple[CatalogProblem, ...] = ()


class Assets:
    """What lies in `loras/`, `embeddings/`, `controlnets/`, `vaes/` and `upscalers/`, and what is embedded. Any thread may use it.

    Like Catalog: at most once a second a call looks whether a folder changed and reads the headers of what did, so call it from a
    thread where touching the disk matters.
    """

    def __init__(self, models_dir: Path, *, embedded: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`embedded` has such folders, too; what the operator put into the models folder hides what is called the same there.

        `clock` counts seconds.
        """
        self._models_dir = models_dir
        self._embedded = embedded
        self.annotators = Annotators(models_dir)
        """What makes control maps."""
        self.films = open_films(models_dir, clock=clock)
        """What draws films."""
        self.translators = Translators(models_dir)
        """What puts prompts into English."""
        self.safety = SafetyCheckers(models_dir)
        """What finds pictures that are not to be seen."""
        self.faces = FaceNetworks(models_dir)
        """What restores faces."""
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
        """The asset of that id or alias, ids first. Names are only looked up, never made into paths. Raises ModelNotFound."""
        self.refresh()
        listing = self._listing
        found = listing.by_id[kind].get(asset_id) or listing.by_alias[kind].get(asset_id)
        if found is None:
            raise ModelNotFound(asset_id, sorted(listing.by_id[kind]))
        return found

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used, or is named twice."""
        self.refresh()
        return [
            *self._listing.problems,
            *self.annotators.problems(),
            *self.safety.problems(),
            *self.translators.problems(),
            *self.films.problems(),
            *self.faces.problems(),
        ]

    def refresh(self) -> None:
        """Look at the folders again, unless that was done within the last second."""
        with self._looking:
            now_s = self._clock()
            if self._looked_at_s is None or now_s - self._looked_at_s >= _LOOK_AGAIN_S:
                self._listing = self._look()
                self._looked_at_s = now_s

    def _look(self) -> _Listing:
        by_id: dict[AssetKind, dict[str, Asset]] = {kind: {} for kind in ASSET_KINDS}
        by_alias: dict[AssetKind, dict[str, Asset]] = {kind: {} for kind in ASSET_KINDS}
        problems: list[CatalogProblem] = []
        known: dict[tuple[AssetKind, Entry], tuple[Signature, Asset | CatalogProblem]] = {}
        for kind in ASSET_KINDS:
            for entry in self._entries(kind):
                found = self._inspected(kind, entry, known) if isinstance(entry, Entry) else entry
                if isinstance(found, CatalogProblem):
                    problems.append(found)
                    continue
                by_id[kind][found.id] = found
                for alias in found.aliases:
                    owner = by_alias[kind].setdefault(alias, found)
                    if owner is not found and found.path.parent.parent == self._models_dir:
                        problems.append(CatalogProblem(found.path, f"Its alias {alias!r} already belongs to {owner.id!r}."))
        self._known = known
        return _Listing(by_id, by_alias, tuple(problems))

    def _entries(self, kind: AssetKind) -> Iterator[Entry | CatalogProblem]:
        """What the operator put there, then what is embedded and not hidden by that.

        Even one that can't be used hides its embedded namesake: to draw with that instead would be a surprise.
        """
        taken: set[str] = set()
        for root in (self._models_dir, self._embedded):
            if root is None:
                continue
            folder = root / KIND_FOLDERS[kind]
            try:
                for entry in entries(folder, None, what=kind):
                    if isinstance(entry, CatalogProblem):
                        yield entry
                    elif entry.id not in taken:
                        taken.add(entry.id)
                        yield entry
            except OSError as refusal:
                yield CatalogProblem(folder, f"The folder can't be listed: {refusal.strerror}.")

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
        aliases=sidecar.aliases,
    )
