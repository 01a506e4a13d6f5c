"""CompVis' safety checker from its files to the device: whether a picture shows what it was made to find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdapi.catalog import Refused
from sdapi.catalog.safety import InstalledChecker
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.loading.mapped_weights import own_memory
from sdapi.pipelines.loading.reading_errors import told_as_broken


class SafetyChecker:
    """Looks at pictures; any thread may use it, because nothing of it changes."""

    def __init__(self, network: Any, processor: Any) -> None:
        self._network = network
        self._processor = processor

    @property
    def size_bytes(self) -> int:
        """See HasSize."""
        return sum(tensor.nbytes for tensor in (*self._network.parameters(), *self._network.buffers()))

    @torch.inference_mode()
    def are_unsafe(self, pictures: Sequence[Image.Image]) -> tuple[bool, ...]:
        """Of each picture, in order. One at a time: what is said of a picture must not depend on its neighbours."""
        return tuple(self._is_unsafe(picture) for picture in pictures)

    def _is_unsafe(self, picture: Image.Image) -> bool:
        pixels = self._processor(images=picture.convert("RGB"), return_tensors="pt").pixel_values.to(self._network.device)
        # The library paints over what it is given, so it is given nothing of worth.
        _, (flag,) = self._network(clip_input=pixels, images=np.zeros((1, 1, 1, 3), dtype=np.float32))
        return bool(flag)


def read_checker(installed: InstalledChecker, *, device: torch.device) -> SafetyChecker:
    """Blocks for seconds. Raises ModelBroken where the files are damaged or something else, and torch.OutOfMemoryError.

    In float32 whatever the drawing has: its thresholds are told in thousandths.
    """
    with told_as_broken(installed.id, f"The safety checker in models/safety/{installed.id}/"):
        return _read(installed, device)


def _read(installed: InstalledChecker, device: torch.device) -> SafetyChecker:
    # Imported here, because it takes seconds of whoever draws without any.
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessorPil

    with quiet_loading():
        loading: Any = StableDiffusionSafetyChecker.from_pretrained(
            installed.network,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        processor = CLIPImageProcessorPil.from_pretrained(installed.processor, local_files_only=True, trust_remote_code=False)
    network, loaded = loading
    # transformers only warns of missing weights, and fills them with random numbers.
    if loaded["missing_keys"]:
        raise Refused(f"It lacks weights such as {min(loaded['missing_keys'])}.")
    for name, parameter in network.named_parameters():
        # Nothing is greater than a threshold that is not a number: every picture would pass.
        if not torch.isfinite(parameter).all():
            raise Refused(f"Its {name} is not all numbers.")
    network = network.eval().requires_grad_(requires_grad=False).to(device)
    own_memory(network)
    return SafetyChecker(network, processor)
