"""What models will take in memory, told by their files before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sdapi.catalog import UNET_FAMILIES, Assets, Catalog, Checkpoint, Refused
from sdapi.catalog.model_files import files_bytes
from sdapi.catalog.weights import read_header
from sdapi.domain.errors import ModelNotFound
from sdapi.domain.models_in_memory import film_ids, upscaler_entry
from sdapi.pipelines.forwards.number_formats import NumberFormats

_VAE_OF_A_FILE: Final = "first_stage_model."
_SPARE_COPY: Final = "model_ema."
"""Trainers leave a second UNet in their files, which nobody reads."""


class ExpectedSizes:
    """Of models that aren't in memory, on a device that draws in these formats."""

    def __init__(self, catalog: Catalog, assets: Assets, formats: NumberFormats) -> None:
        self._catalog = catalog
        self._assets = assets
        self._formats = formats

    def model(self, model_id: str) -> int:
        """Bytes of a checkpoint, or of what draws films; 0 for what isn't there or can't be read."""
        try:
            if film_ids(model_id) is None and (checkpoint := self._catalog.get(model_id)).family in UNET_FAMILIES:
                return checkpoint_bytes(checkpoint, self._formats)
        except (ModelNotFound, Refused, OSError):
            return 0  # loading will say what is wrong with it
        return files_bytes(model_id, self._catalog, self._assets)

    def control_net(self, net_id: str) -> int:
        """Bytes, as they are on disk; 0 for what isn't there."""
        try:
            return self._assets.get("controlnet", net_id).size_bytes
        except ModelNotFound:
            return 0

    def upscaler(self, upscaler_id: str) -> int:
        """Bytes, as they are on disk; 0 for what isn't there."""
        return files_bytes(upscaler_entry(upscaler_id), self._catalog, self._assets)


def checkpoint_bytes(checkpoint: Checkpoint, formats: NumberFormats) -> int:
    """What a checkpoint of one of the joint loop's families takes once it is loaded. Raises Refused and OSError."""
    return sum(numbers * (formats.pictures if is_vae else formats.predicting).itemsize for numbers, is_vae in _weights(checkpoint.weights))


def _weights(files: tuple[Path, ...]) -> Iterator[tuple[int, bool]]:
    """How many numbers each weight has, and whether it is the VAE's."""
    for path in files:
        for name, tensor in read_header(path).tensors.items():
            if not name.startswith(_SPARE_COPY):
                yield math.prod(tensor.shape), path.parent.name == "vae" or name.startswith(_VAE_OF_A_FILE)
