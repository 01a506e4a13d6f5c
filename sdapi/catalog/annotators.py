"""The trained annotators in `annotators/`: a folder for each, of a name that is known. Looks at names and sizes only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdapi.domain.control_maps import AnnotatorName

from .checkpoint import CatalogProblem
from .weights import Refused

FOLDER = "annotators"

_PARTS: Mapping[AnnotatorName, tuple[str, ...]] = {
    AnnotatorName.DEPTH: (".",),
    AnnotatorName.SEGMENTATION: (".",),
    AnnotatorName.OPENPOSE: ("pose", "people"),
}
"""Which folders of it are models in transformers' format; the others are one file."""
_SUFFIXES: Mapping[AnnotatorName, str] = {
    AnnotatorName.HED: ".safetensors",
    AnnotatorName.LINEART: ".safetensors",
    AnnotatorName.FACE_DETECTOR: ".onnx",
}


@dataclass(frozen=True)
class InstalledAnnotator:
    """One that is complete as far as its file names go."""

    name: AnnotatorName
    path: Path
    """The folder, or the one file."""
    size_bytes: int
    version: str
    """Another once a file was replaced."""


class Annotators:
    """Looked up anew at every call, because there are few; call it in a thread where touching the disk matters."""

    def __init__(self, models_dir: Path) -> None:
        self._folder = models_dir / FOLDER

    def installed(self) -> dict[AnnotatorName, InstalledAnnotator]:
        """Every usable one."""
        looked = [self._look(name) for name in AnnotatorName]
        return {found.name: found for found in looked if isinstance(found, InstalledAnnotator)}

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used."""
        problems = [found for name in AnnotatorName if isinstance(found := self._look(name), CatalogProblem)]
        try:
            there = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        except OSError as error:
            return [CatalogProblem(self._folder, f"The folder can't be listed: {error.strerror}.")]
        strangers = [one for one in there if one.name not in set(AnnotatorName) and not one.name.startswith(".")]
        sentence = f"No annotator is called so; there are the folders {', '.join(AnnotatorName)}."
        return [*problems, *(CatalogProblem(one, sentence) for one in strangers)]

    def _look(self, name: AnnotatorName) -> InstalledAnnotator | CatalogProblem | None:
        folder = self._folder / name.value
        try:
            if not folder.is_dir():
                return None
            files = (
                [file for part in _PARTS[name] for file in _transformers_files(folder / part)]
                if name in _PARTS
                else [_only_file(name, folder)]
            )
            stats = [file.stat() for file in files]
        except Refused as refusal:
            return CatalogProblem(folder, str(refusal))
        except OSError as error:
            return CatalogProblem(folder, f"It can't be read: {error.strerror}.")
        size_bytes = sum(stat.st_size for stat in stats)
        version = f"{size_bytes} bytes of {max(stat.st_mtime_ns for stat in stats)}"
        return InstalledAnnotator(name, folder if name in _PARTS else files[0], size_bytes, version)


def _transformers_files(folder: Path) -> list[Path]:
    needed = [folder / "config.json", folder / "preprocessor_config.json"]
    for file in needed:
        if not file.is_file():
            raise Refused(f"{file.relative_to(folder.parent)} is missing, so it is not a model in transformers' format.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Refused(f"There is no .safetensors file in {folder.name}/.")
    return [*needed, *weights]


def _only_file(name: AnnotatorName, folder: Path) -> Path:
    suffix = _SUFFIXES[name]
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix and not file.name.startswith("."))
    if len(files) != 1:
        raise Refused(f"It is a folder with {'no' if not files else 'more than one'} {suffix} file, so it is not clear what to use.")
    return files[0]
