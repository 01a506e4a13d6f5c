"""What kinds of things a picture shows, each in its colour, by a segmentation model of transformers (UperNet, SegFormer)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sdapi.catalog import Refused
from sdapi.domain.control_maps import ControlMap
from sdapi.pipelines.control.annotators import Map, Rgb

from .ade20k import PALETTE


class SegmentationAnnotator:
    """Makes such maps; for use from the device thread only."""

    def __init__(self, network: Any, processor: Any, *, size_bytes: int) -> None:
        """Raises Refused where the network doesn't tell ADE20K's 150 classes apart."""
        classes = network.config.num_labels
        if classes != len(PALETTE):
            raise Refused(f"It knows {classes} classes; control nets are shown the {len(PALETTE)} of ADE20K.")
        self._network = network
        self._processor = processor
        self.size_bytes = size_bytes

    @torch.inference_mode()
    def map_of(self, _: ControlMap, rgb: Rgb) -> Map:
        """Of the picture's size."""
        inputs = self._processor(images=rgb, return_tensors="pt").to(self._network.device)
        logits: torch.Tensor = self._network(**inputs).logits.float()
        large = functional.interpolate(logits, size=rgb.shape[:2], mode="bilinear", align_corners=False)
        classes = large[0].argmax(dim=0).cpu().numpy()
        coloured: Map = PALETTE[classes].astype(np.float32) / 255.0
        return coloured
