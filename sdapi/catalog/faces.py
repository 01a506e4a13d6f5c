"""The network that restores faces, in `faces/gfpgan/`: one file. Looks at its header only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .checkpoint import CatalogProblem
from .weights import Refused, read_shapes

FOLDER = "faces"
GFPGAN = "gfpgan"
WANTED = f"GFPGAN 1.3 or 1.4 as a .safetensors file in models/{FOLDER}/{GFPGAN}/ (`sdapi models convert GFPGANv1.4.pth OUT.safetensors`)"
"""What to install, in words for clients and operators."""

_TENSORS = ("conv_body_first.weight", "final_linear.weight", "stylegan_decoder.constant_input.weight", "condition_scale.0.2.weight")
"""What makes a network the clean form of GFPGAN."""


@dataclass(frozen=True)
class InstalledFaceNetwork:
    """One that is complete as far as its header goes."""

    path: Path
    size_bytes: int
    version: str
    """Another once the file was replaced."""


class FaceNetworks:
    """Looked up anew at every call; call it in a thread where touching the disk matters."""

    def __init__(self, models_dir: Path) -> None:
        self._folder = models_dir / FOLDER

    def used(self) -> InstalledFaceNetwork | None:
        """The one faces are restored by; None where none is installed. Raises Refused for one that can't be used."""
        found = self._look()
        if isinstance(found, CatalogProblem):
            raise Refused(f"models/{FOLDER}/{found.path.name} can't be used: {found.sentence}")
        return found

    def installed(self) -> list[InstalledFaceNetwork]:
        """The usable one, if there is one."""
        found = self._look()
        return [found] if isinstance(found, InstalledFaceNetwork) else []

    def problems(self) -> list[CatalogProblem]:
        """What is there and can't be used."""
        found = self._look()
        return [found] if isinstance(found, CatalogProblem) else []

    def _look(self) -> InstalledFaceNetwork | CatalogProblem | None:
        folder = self._folder / GFPGAN
        try:
            if not folder.is_dir():
                return None
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".safetensors" and not file.name.startswith("."))
            if len(files) != 1:
                count = "no" if not files else "more than one"
                raise Refused(f"It is a folder with {count} .safetensors file, so it is not clear what to use.")
            names = read_shapes(files[0])
            lacking = next((name for name in _TENSORS if not any(one.endswith(name) for one in names)), None)
            if lacking is not None:
                raise Refused(f"{files[0].name} has no {lacking}, so it is not GFPGAN 1.3 or 1.4.")
            stat = files[0].stat()
        except Refused as refusal:
            return CatalogProblem(folder, str(refusal))
        except OSError as error:
            return CatalogProblem(folder, f"It can't be read: {error.strerror}.")
        return InstalledFaceNetwork(files[0], stat.st_size, f"{stat.st_size} bytes of {stat.st_mtime_ns}")
