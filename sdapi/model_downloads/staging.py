"""The folder a model grows in, beside the others and out of the catalog's sight, and its way from there into its place.

<models_dir>/.downloading/<kind>-<model_id>/state.json    which source, and what is known of each file
                                            parts/0.part   the file that is being fetched
                                            files/...      whole files, as they will be called
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from sdapi.catalog import KIND_FOLDERS, Refused
from sdapi.catalog.asset_inspection import inspect_asset
from sdapi.catalog.checkpoint import Layout
from sdapi.catalog.inspection import inspect_file, inspect_folder
from sdapi.catalog.inventory import ModelKind

from .download import DownloadFailed

STAGING = ".downloading"

_CHUNK_BYTES = 2**20
_UNUSED_DAYS = 3
_SECONDS_PER_DAY = 24 * 3600


class _FileState(BaseModel):
    model_config = ConfigDict(extra="forbid")

    validator: str = ""
    """Strong ETag, or date: what tells a server that we have the beginning of the very same file."""
    total_bytes: int | None = None
    sha256: str = ""
    """Set once the file is whole and in files/."""


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str = ""
    files: dict[str, _FileState] = {}


class PartFile:
    """A file that grows, hashed as it does. Blocks: call it in threads, one call at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def open(self) -> None:
        """Read what is there already, so that the hash covers it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        self._file = self._path.open("r+b")
        self._digest, self.size_bytes = hashlib.sha256(), 0
        while chunk := self._file.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)

    def clear(self) -> None:
        """Begin again at nothing."""
        self._open_file().seek(0)
        self._open_file().truncate()
        self._digest, self.size_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        file = self._open_file()
        file.write(data)
        file.flush()  # a full disk is noticed here, where it is handled
        self._digest.update(data)
        self.size_bytes += len(data)

    def close(self, *, durable: bool = False) -> None:
        """Let go; `durable` waits until the disk has it."""
        if self._file is not None:
            if durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    @property
    def sha256(self) -> str:
        """Of what is there, in hex."""
        return self._digest.hexdigest()

    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            raise ValueError("the part file is not open")
        return self._file


class Staging:
    """One model's staging folder. Everything blocks: call it in threads."""

    def __init__(self, models_dir: Path, kind: ModelKind, model_id: str, *, own: str = "") -> None:
        """One of its `own` is nobody else's; those without share a folder, which the table of downloads gives to one at a time."""
        self._models_dir = models_dir
        self._kind = kind
        self._model_id = model_id
        # No id has a "~", so it is the folder of no other model.
        self.folder = models_dir / STAGING / (f"{kind}-{model_id}~{own}" if own else f"{kind}-{model_id}")
        self._files = self.folder / "files"
        self._state = _State()

    def open(self, source: str) -> None:
        """Continue what lies here if it came from the same `source`, otherwise begin with nothing. Raises OSError."""
        try:
            self._state = _State.model_validate_json((self.folder / "state.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            self._state = _State()
        if self._state.source != source:
            self.remove()
            self._state = _State(source=source)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save()

    def remove(self) -> None:
        """Everything that has come goes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def part(self, path: str) -> PartFile:
        """The beginning of the file `path` of the model, as far as it has come."""
        return PartFile(self._part_path(path))

    def validator(self, path: str) -> tuple[str, int | None]:
        """What was noted when the part was begun: validator ("" for none) and size of the whole."""
        state = self._state.files.get(path, _FileState())
        return state.validator, state.total_bytes

    def note(self, path: str, *, validator: str, total_bytes: int | None) -> None:
        """Remember what the part is the beginning of, before its first byte is written."""
        self._state.files[path] = _FileState(validator=validator, total_bytes=total_bytes)
        self._save()

    def whole(self, path: str) -> tuple[int, str] | None:
        """Size and SHA-256 of a file that has come completely; None for the others."""
        state = self._state.files.get(path)
        if state is None or not state.sha256 or not (self._files / path).is_file():
            return None
        return (self._files / path).stat().st_size, state.sha256

    def complete(self, path: str, sha256: str) -> None:
        """The part is whole: it gets its name."""
        target = self._files / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._part_path(path).replace(target)
        self._state.files[path] = _FileState(sha256=sha256)
        self._save()

    def installed_before(self, layout: Layout) -> dict[str, str] | None:
        """The hashes by path, where a process installed exactly this and died before it could say so; otherwise None."""
        hashes = {path: state.sha256 for path, state in self._state.files.items()}
        gone = not any(self._files.rglob("*")) if layout == "single_file" else not self._files.exists()
        there = any(places_of(self._models_dir / KIND_FOLDERS[self._kind], self._model_id))
        return hashes if hashes and all(hashes.values()) and gone and there else None

    def verify(self, layout: Layout) -> None:
        """Look at the headers as the catalog will. Raises DownloadFailed with what is wrong, and OSError."""
        try:
            inspect_as(self._kind, self._staged(layout), layout)
        except Refused as refusal:
            raise DownloadFailed(f"What has come can't be used: {refusal}") from refusal

    def link(self, layout: Layout, target: Path) -> None:
        """Have a symbolic link for what would have been copied. Raises OSError."""
        staged = self._staged(layout)
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.symlink_to(target, target_is_directory=layout == "diffusers")

    def install(self, layout: Layout, *, replace: bool) -> Path:
        """Put the model into its place by one rename; the staging folder stays, to tell that this was done. Returns the place.

        Raises DownloadFailed where one is there that may not be replaced, and OSError.
        """
        staged = self._staged(layout)
        folder = self._models_dir / KIND_FOLDERS[self._kind]
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / (self._model_id if layout == "diffusers" else f"{self._model_id}.safetensors")
        there = list(places_of(folder, self._model_id))
        if there and not replace:
            raise DownloadFailed(f"Meanwhile another {self._kind} with the id {self._model_id!r} was put there; delete that one first.")
        # On another file system (a folder that is a mount or a link) a rename is not possible; its copy is still out of sight.
        staged = _moved_near(staged, folder / f".{self._model_id}.{secrets.token_hex(4)}")
        _sync_folder(staged)
        for old in there:
            if layout == "diffusers" or old != target:
                # A folder can't be renamed over; the rest of this takes a millisecond, and a crash within it is repaired by the next try.
                put_away(self._models_dir, old)
        staged.replace(target)
        _sync_folder(folder)
        return target

    def _staged(self, layout: Layout) -> Path:
        return self._files if layout == "diffusers" else self._files / f"{self._model_id}.safetensors"

    def _part_path(self, path: str) -> Path:
        return self.folder / "parts" / (path.replace("/", "!") + ".part")

    def _save(self) -> None:
        fresh = self.folder / "state.json.new"
        fresh.write_text(json.dumps(self._state.model_dump()))
        fresh.replace(self.folder / "state.json")


def inspect_as(kind: ModelKind, path: Path, layout: Layout) -> None:
    """Look at headers as the catalog will. Raises Refused with what is wrong, and OSError."""
    if kind != "checkpoint":
        inspect_asset(kind, path, layout)
    elif layout == "diffusers":
        inspect_folder(path)
    else:
        inspect_file(path)


def places_of(folder: Path, model_id: str) -> Iterator[Path]:
    """What the catalog would list in `folder` under this id: a folder, a file, or both. Raises OSError."""
    for path in folder.iterdir() if folder.is_dir() else ():
        own_name = path.name if path.is_dir() else path.stem
        if own_name == model_id and (path.is_dir() or path.suffix.lower() == ".safetensors"):
            yield path


def put_away(models_dir: Path, path: Path) -> None:
    """Remove a file, a link or a whole folder; out of sight at once, from the disk as fast as that goes. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    trash = models_dir / STAGING / f"removed-{secrets.token_hex(8)}"
    trash.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.rename(trash)
    except OSError as refusal:
        if refusal.errno != errno.EXDEV:
            raise
        trash = path.with_name(f".removed-{secrets.token_hex(8)}")
        path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def remove_unused(models_dir: Path, in_use: Collection[tuple[ModelKind, str]]) -> list[str]:
    """Remove the staging folders nobody has written to for days and no unfinished download needs. Returns their names."""
    used = {f"{kind}-{model_id}" for kind, model_id in in_use}
    removed = []
    with suppress(OSError):
        for folder in (models_dir / STAGING).iterdir():
            newest = max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
            if folder.name not in used and time.time() - newest > _UNUSED_DAYS * _SECONDS_PER_DAY:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
    return removed


def _moved_near(staged: Path, hidden: Path) -> Path:
    """`staged`, or a copy of it at `hidden` where that is on another file system."""
    if staged.lstat().st_dev == hidden.parent.stat().st_dev:
        return staged
    try:
        if staged.is_symlink():
            hidden.symlink_to(staged.readlink())
        elif staged.is_dir():
            shutil.copytree(staged, hidden)
        else:
            shutil.copy2(staged, hidden)
    except OSError:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.unlink(missing_ok=True)
        raise
    return hidden


def _sync_folder(path: Path) -> None:
    """Have the disk know the names in a folder; of a file, its bytes."""
    if os.name == "nt":
        return  # there, folders can't be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
