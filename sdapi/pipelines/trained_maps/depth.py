"""Depth and surface normals, by a depth estimation model of transformers (DPT, Depth Anything and the like)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sdapi.domain.control_maps import ControlMap
from sdapi.pipelines.control.annotators import Map, Rgb

_METRIC_MODELS = frozenset({"glpn", "zoedepth", "depth_pro"})
"""Which tell metres; the others tell their reciprocals, as control nets are used to."""
_BACKGROUND_BELOW = 0.4
"""Of the depth's range: what is farther has no shape (the model card of sd-controlnet-normal)."""
_TOWARDS_VIEWER = 2 * np.pi
"""The third component beside the depth's gradient, before the normal has length 1 (ditto)."""

_LEAST_SHARE = 1e-4
"""Of the depth itself: a smaller range is no shape."""


class DepthAnnotator:
    """Makes maps of both; for use from the device thread only."""

    def __init__(self, network: Any, processor: Any, *, size_bytes: int) -> None:
        self._network = network
        self._processor = processor
        self.size_bytes = size_bytes
        config = network.config
        self._is_metric = config.model_type in _METRIC_MODELS or getattr(config, "depth_estimation_type", "relative") == "metric"

    def map_of(self, kind: ControlMap, rgb: Rgb) -> Map:
        """For ControlMap.NORMAL the normals, otherwise the depth."""
        depth = self._depth(rgb)
        return _normals(depth, rgb.shape[:2]) if kind is ControlMap.NORMAL else _shades(depth, rgb.shape[:2])

    @torch.inference_mode()
    def _depth(self, rgb: Rgb) -> NDArray[np.float32]:
        """Of the network's own size; what is nearer has more."""
        inputs = self._processor(images=rgb, return_tensors="pt").to(self._network.device)
        told: NDArray[np.float32] = self._network(**inputs).predicted_depth.float().squeeze().cpu().numpy()
        return (1.0 / np.maximum(told, 1e-3)).astype(np.float32) if self._is_metric else told


def _shades(depth: NDArray[np.float32], size: tuple[int, int]) -> Map:
    """The nearest white, the farthest black, of `size` (height, width). A picture of one depth is black."""
    # Bicubic, as transformers' own pipeline enlarges it.
    large = functional.interpolate(torch.from_numpy(depth)[None, None], size=size, mode="bicubic", align_corners=False)
    return np.repeat(_within_its_range(large[0, 0].numpy())[:, :, None], 3, axis=2)


def _normals(depth: NDArray[np.float32], size: tuple[int, int]) -> Map:
    """From the gradient of the depth; red is across, green down, blue towards the viewer, each from -1 (0) to 1 (1)."""
    import cv2

    is_background = _within_its_range(depth) < _BACKGROUND_BELOW
    across, down = (np.asarray(cv2.Sobel(depth, cv2.CV_32F, dx, 1 - dx, ksize=3)) for dx in (1, 0))
    normals = np.stack([across, down, np.full_like(depth, _TOWARDS_VIEWER)], axis=2)
    normals[is_background, :2] = 0
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    shades: Any = cv2.resize((normals / 2 + 0.5).astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(shades, dtype=np.float32).clip(0, 1)


def _within_its_range(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    lowest, highest = float(depth.min()), float(depth.max())
    # Rounding errors of one depth must not be stretched to a landscape.
    least = max(_LEAST_SHARE * max(abs(lowest), abs(highest)), 1e-6)
    return ((depth - lowest) / max(highest - lowest, least)).clip(0, 1).astype(np.float32)
