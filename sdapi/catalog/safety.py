"""The safety checkers in `safety/`: a folder for each. Looks at names, JSON and headers only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .checkpoint import CatalogProblem
from .weights import Refused, read_shapes

FOLDER = "safety"
WEIGHTS_NAME = "model.safetensors"

_TENSORS = ("concept_embeds", "concept_embeds_weights", "special_care_embeds", "special_care_embeds_weights", "visual_projection.weight")
"""What makes a CLIP model CompVis' checker."""


@dataclass(frozen=True)
class InstalledChecker:
    """One that is complete as far as its names and header go."""

    id: str
    path: Path
    network: Path
    """The folder of config.json and the weights: `path`, or its safety_checker/ as in a checkpoint's folder."""
    processor: Path
    """The folder of preprocessor_config.json: `path`, or its feature_extractor/."""
    size_bytes: int
    version: str
    """Another once a file was replaced."""


class SafetyCheckers:
    """Looked up anew at every call, because there are few; call it in a thread where touching the disk matters."""

    def __init__(self, models_dir: Path) -> None:
        self._folder = models_dir / FOLDER

    def installed(self) -> dict[str, InstalledChecker]:
        """Every usable one, by id."""
        return {found.id: found for found in self._look() if isinstance(found, InstalledChecker)}

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used."""
        return [found for found in self._look() if isinstance(found, CatalogProblem)]

    def used(self) -> InstalledChecker | None:
        """The one that pictures are checked by: the first by id; None where none is installed.

        Raises Refused where there are only unusable ones: who put one there counts on it, so nothing may pass as if there were none.
        """
        found = self._look()
        usable = [one for one in found if isinstance(one, InstalledChecker)]
        if found and not usable:
            problem = found[0]
            assert isinstance(problem, CatalogProblem)  # noqa: S101 - nothing else is left
            raise Refused(f"The safety checker in models/{FOLDER}/{problem.path.name}/ can't be used: {problem.sentence}")
        return usable[0] if usable else None

    def _look(self) -> list[InstalledChecker | CatalogProblem]:
        try:
            there = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        except OSError as error:
            return [CatalogProblem(self._folder, f"The folder can't be listed: {error.strerror}.")]
        return [_inspected(folder) for folder in there if not folder.name.startswith(".") and folder.is_dir()]


def _inspected(folder: Path) -> InstalledChecker | CatalogProblem:
    try:
        network = folder / "safety_checker" if (folder / "safety_checker").is_dir() else folder
        processor = folder / "feature_extractor" if (folder / "feature_extractor").is_dir() else folder
        files = [network / "config.json", network / WEIGHTS_NAME, processor / "preprocessor_config.json"]
        for file in files:
            if not file.is_file():
                raise Refused(
                    f"{file.relative_to(folder)} is missing. There must be config.json, {WEIGHTS_NAME}, preprocessor_config.json."
                )
        shapes = read_shapes(network / WEIGHTS_NAME)
        if (lacking := next((name for name in _TENSORS if name not in shapes), None)) is not None:
            raise Refused(f"It has no {lacking}, so it is not a safety checker as CompVis made it.")
        stats = [file.stat() for file in files]
    except Refused as refusal:
        return CatalogProblem(folder, str(refusal))
    except OSError as error:
        return CatalogProblem(folder, f"It can't be read: {error.strerror}.")
    size_bytes = stats[1].st_size
    version = f"{size_bytes} bytes of {max(stat.st_mtime_ns for stat in stats)}"
    return InstalledChecker(folder.name, folder, network, processor, size_bytes, version)
