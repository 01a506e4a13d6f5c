"""SHA-256 of a model, the same whether it is being fetched or lies in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .checkpoint import Layout

_CHUNK_BYTES = 2**20


def file_sha256(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """In hex. `on_bytes` is told of every piece that has been read. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def model_sha256(path: Path, layout: Layout, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Of the file, or of all files of a folder as `folder_sha256` makes one of them. Reads every byte. Raises OSError."""
    if layout == "single_file":
        return file_sha256(path, on_bytes)
    return folder_sha256({str(file.relative_to(path)): file_sha256(file, on_bytes) for file in files_of(path)})


def folder_sha256(hashes: Mapping[str, str]) -> str:
    """Of the lines `sha256sum` prints, `<hash>  <path>` and a line feed each, in the order of paths below the folder."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a model's folder; hidden ones and caches, which other programs leave behind, are no part of it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts):
            yield path
