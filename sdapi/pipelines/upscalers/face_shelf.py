"""What restores faces on one device: read beside the drawing when first asked for, kept while there is memory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdapi.catalog import Assets, ModelBroken, Refused
from sdapi.domain.control_maps import AnnotatorName
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.trained_maps.faces import FaceAnnotator

from .faces import FaceRestorer, face_network_of


class FaceLease:
    """The restorer that one job keeps in memory."""

    def __init__(self, residency: Residency[FaceRestorer], key: str) -> None:
        self._residency = residency
        self._key = key
        self.restorer: FaceRestorer | None = None
        """Once it is there."""

    def acquire(self) -> bool:
        """See Held."""
        if self.restorer is None:
            self.restorer = self._residency.lease(self._key)
        return self.restorer is not None

    def release(self) -> None:
        """See Held."""
        if self.restorer is not None:
            self._residency.release(self._key)
        self.restorer = None


class FaceShelf:
    """For use from the device thread only."""

    def __init__(self, assets: Assets | None, memory: Memory, *, device: torch.device) -> None:
        """None for `assets`: nothing is installed."""
        self._assets = assets
        self._device = device
        self._known: dict[str, tuple[Path, Path]] = {}
        self._residency: Residency[FaceRestorer] = Residency(self._read, memory)

    def lease(self) -> FaceLease:
        """What a job keeps until it ends. Raises ModelBroken where it isn't installed any more."""
        try:
            network = None if self._assets is None else self._assets.faces.used()
        except Refused as refusal:
            raise ModelBroken("gfpgan", f"Faces can't be restored: {refusal}") from refusal
        finder = None if self._assets is None else self._assets.annotators.installed().get(AnnotatorName.FACE_DETECTOR)
        if network is None or finder is None:
            raise ModelBroken("gfpgan", "What restores faces (face_enhance) is not installed any more.")
        key = f"{network.version}, {finder.version}"
        self._known[key] = (network.path, finder.path)
        return FaceLease(self._residency, key)

    def clear(self) -> int:
        """Forget what nobody uses; how many bytes it took."""
        return self._residency.evict_idle()

    def close(self) -> None:
        """Load nothing more and forget all."""
        self._residency.close()

    def _read(self, key: str) -> FaceRestorer:
        network, finder = self._known[key]
        try:
            # In float32, in which these networks were made: styles reach far. Cloned, because the file may be replaced.
            tensors = {name: tensor.to(self._device, torch.float32, copy=True) for name, tensor in load_file(network).items()}
            with quiet_loading():  # while diffusers builds a network, all that are built beside it have no weights
                restored_by = face_network_of(tensors)
            return FaceRestorer(restored_by, FaceAnnotator(finder))
        except Refused as refusal:
            raise ModelBroken("gfpgan", f"Faces can't be restored: {refusal}") from refusal
        except (OSError, SafetensorError) as error:
            raise ModelBroken("gfpgan", f"Faces can't be restored: {network.name} is damaged.") from error
