"""The translators in `translators/`: mBART-50 models in transformers' format, each a folder whose name is its id. Looks at names, sizes
and the configuration only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import CatalogProblem
from .weights import Refused

FOLDER = "translators"
VOCABULARY = "sentencepiece.bpe.model"

_MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class InstalledTranslator:
    """One that is complete as far as its file names go."""

    id: str
    path: Path
    """The folder."""
    weights: tuple[Path, ...]
    size_bytes: int
    """Of the weights on disk."""
    version: str
    """Another once a file was replaced."""


class Translators:
    """Looked up anew at every call, because there are few; call it in a thread where touching the disk matters."""

    def __init__(self, models_dir: Path) -> None:
        self._folder = models_dir / FOLDER

    def installed(self) -> dict[str, InstalledTranslator]:
        """Every usable one, by id; the first is the one that is used."""
        return {found.id: found for found in self._looks() if isinstance(found, InstalledTranslator)}

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used."""
        return [found for found in self._looks() if isinstance(found, CatalogProblem)]

    def _looks(self) -> list[InstalledTranslator | CatalogProblem]:
        try:
            there = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        except OSError as error:
            return [CatalogProblem(self._folder, f"The folder can't be listed: {error.strerror}.")]
        return [_look(path) for path in there if not path.name.startswith(".")]


def _look(folder: Path) -> InstalledTranslator | CatalogProblem:
    try:
        if not folder.is_dir():
            raise Refused("It is not a folder; a translator is a folder in transformers' format.")
        for name in ("config.json", VOCABULARY):
            if not (folder / name).is_file():
                raise Refused(f"{name} is missing, so it is not an mBART-50 model in transformers' format.")
        _check_config(folder / "config.json")
        weights = tuple(sorted(folder.glob("*.safetensors")))
        if not weights:
            raise Refused("There is no .safetensors file in it; convert its .bin file with `sdapi models convert`.")
        stats = [file.stat() for file in (*weights, folder / "config.json", folder / VOCABULARY)]
    except Refused as refusal:
        return CatalogProblem(folder, str(refusal))
    except OSError as error:
        return CatalogProblem(folder, f"It can't be read: {error.strerror}.")
    version = f"{sum(stat.st_size for stat in stats)} bytes of {max(stat.st_mtime_ns for stat in stats)}"
    return InstalledTranslator(folder.name, folder, weights, sum(stat.st_size for stat in stats[: len(weights)]), version)


def _check_config(path: Path) -> None:
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as refusal:
        raise Refused("config.json is not JSON.") from refusal
    told = config.get("model_type") if isinstance(config, dict) else None
    if told != "mbart":
        raise Refused(f"Its config.json says model_type {str(told)[:60]!a}, and a translator is of type 'mbart'.")
