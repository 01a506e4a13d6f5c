"""The catalog: checkpoints by id and alias, looked at again when the folder changes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sdapi.domain.errors import ModelNotFound

from .checkpoint import CatalogProblem, Checkpoint, Layout
from .inspection import Inspected
from .scan import Entry, Signature, entries, inspect, inspect_checkpoint

CATCH_ALL = "*"

_LOOK_AGAIN_S = 1.0
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class _Listing:
    """One consistent look, replaced as a whole so that readers need no lock."""

    by_id: Mapping[str, Checkpoint] = field(default_factory=dict)
    by_alias: Mapping[str, Checkpoint] = field(default_factory=dict)
    problems: tuple[CatalogProblem, ...] = ()


class Catalog:
    """The checkpoints under `<models_dir>/checkpoints`, and the embedded one. Any thread may use it.

    Dropping a file in is enough: at most once a second, a call looks whether the folder changed and reads the headers of what did.
    Looking touches the disk, so call it from a thread where that matters.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        aliases: Mapping[str, str],
        embedded: Path | None,
        clock: Callable[[], float] = time.monotonic,
        folder: str = "checkpoints",
        look: Callable[[Path, Layout], Inspected] = inspect_checkpoint,
        what: str = "checkpoint",
    ) -> None:
        """`aliases` are the operator's: other names to ids, with "*" for every unknown name. `clock` counts seconds.

        Models for films (`films.py`) lie in another `folder`; `look` says what an entry is, `what` is the word for one.
        """
        self._folder = models_dir / folder
        self._look_at = look
        self._what = what
        self._aliases = dict(aliases)
        self._embedded = embedded
        self._clock = clock
        self._looking = threading.Lock()
        self._looked_at_s: float | None = None
        self._known: dict[Entry, tuple[Signature, Checkpoint | CatalogProblem]] = {}
        self._listing = _Listing()
        self._hashing = threading.Lock()
        self._hashes: dict[tuple[Path, int, datetime], str] = {}

    def get(self, model_id: str) -> Checkpoint:
        """The checkpoint of that id or alias. Ids come before the operator's aliases, those before the sidecars', the catch-all last.

        Names are only looked up, never made into paths. Raises ModelNotFound.
        """
        self.refresh()
        listing = self._listing
        targets = (model_id, self._aliases.get(model_id), self._aliases.get(CATCH_ALL))
        for target in targets:
            if target is not None and (found := listing.by_id.get(target) or listing.by_alias.get(target)):
                return found
        raise ModelNotFound(model_id, sorted(listing.by_id))

    def ids(self) -> list[str]:
        """Every id, sorted."""
        return [checkpoint.id for checkpoint in self.all()]

    def all(self) -> list[Checkpoint]:
        """Every checkpoint that can be used, by id."""
        self.refresh()
        return [checkpoint for _, checkpoint in sorted(self._listing.by_id.items())]

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used, or is named twice."""
        self.refresh()
        return list(self._listing.problems)

    def refresh(self) -> None:
        """Look at the folder again, unless that was done within the last second."""
        with self._looking:
            now_s = self._clock()
            if self._looked_at_s is None or now_s - self._looked_at_s >= _LOOK_AGAIN_S:
                self._listing = self._look()
                self._looked_at_s = now_s

    def hash_of(self, checkpoint: Checkpoint) -> str:
        """First 10 hex digits of the SHA-256 of the weights, as A1111 shows for a single file; a folder's files count one after another.

        Reads every byte the first time (seconds for gigabytes: call it in a thread), then remembers. Raises OSError.
        """
        key = (checkpoint.path, checkpoint.size_bytes, checkpoint.modified_at)
        with self._hashing:
            if key not in self._hashes:
                digest = hashlib.sha256()
                for path in checkpoint.weights:
                    with path.open("rb") as file:
                        while chunk := file.read(_CHUNK_BYTES):
                            digest.update(chunk)
                self._hashes[key] = digest.hexdigest()[:10]
            return self._hashes[key]

    def _look(self) -> _Listing:
        by_id: dict[str, Checkpoint] = {}
        problems: list[CatalogProblem] = []
        known: dict[Entry, tuple[Signature, Checkpoint | CatalogProblem]] = {}
        try:
            for entry in entries(self._folder, self._embedded, what=self._what):
                found = self._inspected(entry, known) if isinstance(entry, Entry) else entry
                if isinstance(found, Checkpoint):
                    by_id[found.id] = found
                else:
                    problems.append(found)
        except OSError as refusal:
            problems.append(CatalogProblem(self._folder, f"The folder can't be listed: {refusal.strerror}."))
        self._known = known
        by_alias = _by_alias(by_id, problems)
        for alias, target in self._aliases.items():
            if target not in by_id and target not in by_alias:
                problems.append(CatalogProblem(self._folder, f"The alias {alias!r} leads to {target!r}, which is not there."))
        return _Listing(by_id, by_alias, tuple(problems))

    def _inspected(self, entry: Entry, known: dict[Entry, tuple[Signature, Checkpoint | CatalogProblem]]) -> Checkpoint | CatalogProblem:
        try:
            signature = entry.signature()
        except OSError as refusal:
            return CatalogProblem(entry.path, f"It can't be read: {refusal.strerror}.")
        before = self._known.get(entry)
        known[entry] = before if before is not None and before[0] == signature else (signature, inspect(entry, self._look_at))
        return known[entry][1]


def _by_alias(by_id: Mapping[str, Checkpoint], problems: list[CatalogProblem]) -> dict[str, Checkpoint]:
    by_alias: dict[str, Checkpoint] = {}
    for _, checkpoint in sorted(by_id.items()):
        for alias in checkpoint.aliases:
            owner = by_id.get(alias) or by_alias.get(alias)
            if owner is None:
                by_alias[alias] = checkpoint
            elif owner is not checkpoint:
                problems.append(CatalogProblem(checkpoint.path, f"Its alias {alias!r} already belongs to {owner.id!r}."))
    return by_alias
