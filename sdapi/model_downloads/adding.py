"""From a file or folder of this machine to a model in its place: look -> copy or link -> verify -> install -> record."""

from __future__ import annotations

import errno
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdapi.catalog import KIND_FOLDERS, Refused
from sdapi.catalog.asset_inspection import kind_of_tensors
from sdapi.catalog.checkpoint import Layout
from sdapi.catalog.hashes import files_of, folder_sha256, model_sha256
from sdapi.catalog.inventory import ModelKind
from sdapi.catalog.licences import licence_of
from sdapi.catalog.records import Origin, sidecar_path
from sdapi.catalog.weights import PICKLED_SUFFIXES, how_to_convert, read_shapes
from sdapi.domain.errors import InvalidRequest

from .download import DownloadFailed, NewDownload
from .fetching import record
from .hub import HubListing, ListedFile, choose_files, is_plain
from .names import check_id
from .staging import Staging, inspect_as
from .transfer import check_disk, disk_failure

_CHUNK_BYTES = 2**22
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LocalModel:
    """What is to be added. `kind` None: what its tensors say."""

    path: Path
    model_id: str
    kind: ModelKind | None = None
    sha256: str = ""
    """Expected, in hex; empty: not known. Of a folder: see `hashes.folder_sha256`."""
    replace: bool = False
    is_linked: bool = False
    """Whether the models folder gets a symbolic link to it instead of a copy."""


@dataclass(frozen=True)
class Added:
    """A model that is in its place."""

    kind: ModelKind
    place: Path
    sha256: str


@dataclass(frozen=True)
class _Plan:
    kind: ModelKind
    layout: Layout
    source: Path
    """The folder, or the single file."""
    files: Mapping[str, Path]
    """What is copied, by the path each file will have in the installed folder."""


def add_model(
    models_dir: Path,
    model: LocalModel,
    *,
    on_bytes: Callable[[int, int], None] = lambda _, __: None,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Added:
    """Install a copy of `model.path`, or a link to it. Blocks; `on_bytes` is told how many are done, and of how many.

    Nothing is changed in its place unless all of it is there and can be used. Raises InvalidRequest (`model_id`, `sha256`) and
    DownloadFailed.
    """
    expected = model.sha256.strip().lower()
    if expected and not _SHA256.fullmatch(expected):
        raise InvalidRequest.of("sha256", "The sha256 must be 64 hexadecimal digits.")
    try:
        plan = _planned(model)
        check_id(NewDownload(plan.kind, model.model_id, str(model.path), replace=model.replace), models_dir)
        inspect_as(plan.kind, plan.source, plan.layout)
    except Refused as refusal:
        raise DownloadFailed(f"{model.path} can't be used: {refusal}") from refusal
    except OSError as refusal:
        raise DownloadFailed(f"{model.path} can't be read: {refusal.strerror}.") from refusal
    staging = Staging(models_dir, plan.kind, model.model_id, own=secrets.token_hex(4))
    try:
        staging.open(str(model.path))
        if model.is_linked:
            sha256 = _linked(plan, staging, on_bytes)
        else:
            sha256 = _copied(plan, staging, model.model_id, on_bytes, free_bytes)
        if expected and sha256 != expected:
            raise DownloadFailed(f"{model.path} has the SHA-256 {sha256}, but {expected} was expected.")
        staging.verify(plan.layout)
        place = staging.install(plan.layout, replace=model.replace)
    except OSError as failure:
        raise disk_failure(failure) from failure
    finally:
        staging.remove()
    record(sidecar_path(place, model.model_id), Origin(str(model.path.resolve()), sha256, licence_of(plan.source, plan.layout)))
    return Added(plan.kind, place, sha256)


def _planned(model: LocalModel) -> _Plan:
    path = model.path
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "There is no such file or folder")
    if path.is_dir():
        return _folder(model)
    if path.suffix.lower() in PICKLED_SUFFIXES:
        raise Refused(how_to_convert("it"))
    return _Plan(model.kind or _kind_of_file(path), "single_file", path, {f"{model.model_id}.safetensors": path})


def _folder(model: LocalModel) -> _Plan:
    folder = model.path
    found = {str(file.relative_to(folder).as_posix()): file for file in files_of(folder)}
    listing = HubListing("", {name: ListedFile(file.stat().st_size, None) for name, file in found.items() if is_plain(name)})
    kind = model.kind or _kind_of_folder(folder, listing)
    choice = choose_files(listing, kind, prefer_fp16=False)
    if choice.is_folder:
        # A link leads to the folder as it is; of a copy, only what is needed is made.
        return _Plan(kind, "diffusers", folder, {name: found[inside] for name, inside in choice.files.items()})
    file = found[choice.files[""]]
    return _Plan(kind, "single_file", file, {f"{model.model_id}.safetensors": file})


def _kind_of_file(path: Path) -> ModelKind:
    kind = kind_of_tensors(read_shapes(path))
    if kind is None:
        raise Refused("It is no model of a kind that is known here.")
    return kind


def _kind_of_folder(folder: Path, listing: HubListing) -> ModelKind:
    if "model_index.json" in listing.files:
        return "checkpoint"
    weights = sorted(name for name in listing.files if "/" not in name and name.endswith(".safetensors"))
    if not weights:
        raise Refused(
            f"It is a folder with neither model_index.json nor a .safetensors file ({', '.join(sorted(KIND_FOLDERS))} are known)."
        )
    return _kind_of_file(folder / weights[0])


def _linked(plan: _Plan, staging: Staging, on_bytes: Callable[[int, int], None]) -> str:
    target = plan.source.resolve()
    total_bytes = sum(file.stat().st_size for file in (files_of(target) if target.is_dir() else (target,)))
    done_bytes = 0

    def count(read_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += read_bytes
        on_bytes(done_bytes, total_bytes)

    sha256 = model_sha256(target, plan.layout, count)
    staging.link(plan.layout, target)
    return sha256


def _copied(plan: _Plan, staging: Staging, model_id: str, on_bytes: Callable[[int, int], None], free_bytes: Callable[[Path], int]) -> str:
    total_bytes = sum(file.stat().st_size for file in plan.files.values())
    check_disk(free_bytes(staging.folder), total_bytes)
    done_bytes = 0
    hashes: dict[str, str] = {}
    for name, file in plan.files.items():
        part = staging.part(name)
        part.open()
        try:
            with file.open("rb") as reading:
                while chunk := reading.read(_CHUNK_BYTES):
                    part.write(chunk)
                    done_bytes += len(chunk)
                    on_bytes(done_bytes, total_bytes)
            part.close(durable=True)
        finally:
            part.close()
        hashes[name] = part.sha256
        staging.complete(name, part.sha256)
    return folder_sha256(hashes) if plan.layout == "diffusers" else hashes[f"{model_id}.safetensors"]
