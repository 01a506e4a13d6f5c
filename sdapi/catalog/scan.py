"""One look at the models folder: entries, what each one is, and what changed since the last look."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .checkpoint import CatalogProblem, Checkpoint, Layout, read_sidecar
from .embedded import EMBEDDED_ID
from .inspection import Inspected, inspect_file, inspect_folder
from .weights import PICKLED_SUFFIXES, Refused, how_to_convert

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Signature = tuple[tuple[str, int, int], ...]
"""Name, mtime in ns and size of every file that matters to an entry: equal ones need no second look."""


@dataclass(frozen=True)
class Entry:
    """A model's place, before anything in it was read."""

    id: str
    path: Path
    layout: Layout
    sidecar: Path

    def signature(self) -> Signature:
        """Changes when a file is added, replaced, removed or still growing. Raises OSError."""
        files = [self.path, self.sidecar]
        if self.layout == "diffusers":
            inside = sorted(self.path.iterdir())
            files += inside
            files += [file for folder in inside if folder.is_dir() for file in sorted(folder.iterdir())]
        return tuple(_stamp(file) for file in files)


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return str(path), 0, -1
    return str(path), found.st_mtime_ns, found.st_size


def entries(folder: Path, embedded: Path | None, *, what: str = "checkpoint") -> Iterator[Entry | CatalogProblem]:
    """The embedded model, then what lies in `folder`, folders first; of two with one id the first counts. Raises OSError.

    `what` lies there, in a word for problems.
    """
    taken: dict[str, Path] = {}
    if embedded is not None:
        taken[EMBEDDED_ID] = embedded
        yield Entry(EMBEDDED_ID, embedded, "diffusers", embedded / "sidecar.toml")
    found = sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name)) if folder.is_dir() else []
    stems = {path.name if path.is_dir() else path.stem for path in found if path.suffix != ".toml"}
    for path in found:
        if path.name.startswith("."):
            continue
        suffix = path.suffix.lower()
        if path.is_dir() or suffix == ".safetensors":
            model_id = path.name if path.is_dir() else path.stem
            problem = _name_problem(model_id, taken)
            if problem is None:
                taken[model_id] = path
                yield Entry(model_id, path, "diffusers" if path.is_dir() else "single_file", folder / f"{model_id}.toml")
            else:
                yield CatalogProblem(path, problem)
        elif suffix in PICKLED_SUFFIXES:
            yield CatalogProblem(path, how_to_convert("It"))
        elif suffix == ".toml" and path.stem not in stems:
            yield CatalogProblem(path, f"It is a sidecar, but there is no {what} {path.stem!a} beside it.")


def _name_problem(model_id: str, taken: dict[str, Path]) -> str | None:
    if not _ID.fullmatch(model_id):
        return (
            f"Its name {model_id!a} can't be an id: rename it to at most 100 letters, digits, dots, dashes and underscores, "
            "the first a letter or digit."
        )
    if model_id in taken:
        owner = "the embedded model" if model_id == EMBEDDED_ID else taken[model_id].name
        return f"The id {model_id!r} already belongs to {owner}; rename one of them."
    return None


def inspect_checkpoint(path: Path, layout: Layout) -> Inspected:
    """What a checkpoint is. Raises Refused, OSError."""
    return inspect_folder(path) if layout == "diffusers" else inspect_file(path)


def inspect(entry: Entry, look: Callable[[Path, Layout], Inspected] = inspect_checkpoint) -> Checkpoint | CatalogProblem:
    """Read an entry's headers, configurations and sidecar. `look` says what it is."""
    try:
        found = look(entry.path, entry.layout)
        sidecar = read_sidecar(entry.sidecar)
        stats = [file.stat() for file in found.weights]
    except Refused as refusal:
        return CatalogProblem(entry.path, str(refusal))
    except OSError as refusal:
        return CatalogProblem(entry.path, f"It can't be read: {refusal.strerror or os.strerror(refusal.errno or 0)}.")
    return Checkpoint(
        id=entry.id,
        path=entry.path,
        layout=entry.layout,
        family=found.family,
        in_channels=found.in_channels,
        weights=found.weights,
        size_bytes=sum(stat.st_size for stat in stats),
        modified_at=datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC),
        title=sidecar.title,
        trigger=sidecar.trigger,
        enhance=sidecar.enhance,
        negative=sidecar.negative,
        steps=sidecar.steps,
        guidance_scale=sidecar.guidance_scale,
        prediction_type=sidecar.prediction_type,
        scheduler=sidecar.scheduler,
        aliases=sidecar.aliases,
        description=sidecar.description,
        longest_frames=found.longest_frames,
        is_motion_adapter=found.is_motion_adapter,
    )
