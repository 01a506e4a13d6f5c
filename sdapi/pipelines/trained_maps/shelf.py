"""The trained annotators of one device: read beside the drawing when first asked for, kept while there is memory."""

from __future__ import annotations

import torch
from PIL import Image

from sdapi.catalog.annotators import Annotators, InstalledAnnotator
from sdapi.domain.control_maps import annotator_of, control_map_of
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.control.annotators import Map, control_map, rgb_of
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency

from .reading import Annotator, read_annotator


class AnnotatorLease:
    """The annotator that one job keeps in memory."""

    def __init__(self, residency: Residency[Annotator], name: str) -> None:
        self._residency = residency
        self._name = name
        self.annotator: Annotator | None = None
        """Once it is there."""

    def acquire(self) -> bool:
        """See Held."""
        if self.annotator is None:
            self.annotator = self._residency.lease(self._name)
        return self.annotator is not None

    def release(self) -> None:
        """See Held."""
        if self.annotator is not None:
            self._residency.release(self._name)
        self.annotator = None


class AnnotatorShelf:
    """Shared by all models; for use from the device thread only."""

    def __init__(self, annotators: Annotators | None, memory: Memory, *, device: torch.device) -> None:
        """None for `annotators`: nothing is installed."""
        self._annotators = annotators
        self._memory = memory
        self._device = device
        self._known: dict[str, InstalledAnnotator] = {}
        self._residency: Residency[Annotator] = Residency(self._read, memory)

    @classmethod
    def empty(cls, device: torch.device) -> AnnotatorShelf:
        """One with nothing installed."""
        return cls(None, Memory(0), device=device)

    def lease(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> AnnotatorLease | None:
        """What a job keeps until it ends; None where it needs no annotator. Raises InvalidRequest where it isn't installed any more."""
        if not isinstance(request, ControlNet) or not request.auto_hint or request.controlnet_type is None:
            return None
        installed = {} if self._annotators is None else self._annotators.installed()
        name = annotator_of(control_map_of(request.controlnet_type), installed)
        if name is None:
            return None
        key = f"{name}, {installed[name].version}"
        self._known[key] = installed[name]
        return AnnotatorLease(self._residency, key)

    def control_map(self, request: ControlNet, picture: Image.Image, *, seed: int, mask: Image.Image | None) -> Map:
        """The map the request's nets are shown, of the picture's size; see `annotators.control_map`.

        Waits for an annotator that isn't in memory. Raises ModelBroken and InvalidRequest.
        """
        kind = control_map_of(request.controlnet_type) if request.auto_hint and request.controlnet_type is not None else None
        lease = self.lease(request)
        if kind is None or lease is None:
            return control_map(kind, picture, seed=seed, mask=mask)
        try:
            while not lease.acquire():
                self._memory.wait_for_load(0.05)
            assert lease.annotator is not None  # noqa: S101 - acquired
            return lease.annotator.map_of(kind, rgb_of(picture))
        finally:
            lease.release()

    def clear(self) -> int:
        """Forget what nobody uses; how many bytes it took."""
        return self._residency.evict_idle()

    def _read(self, key: str) -> Annotator:
        return read_annotator(self._known[key], device=self._device)
