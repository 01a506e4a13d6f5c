"""Outlines of pictures, as control nets for canny maps are shown them, and how far two sets of outlines agree."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Edges = NDArray[np.bool_]
"""(height, width)."""


def outlines(image: Image.Image) -> Edges:
    """With the thresholds that requests with `controlnet_type` canny get."""
    return np.asarray(cv2.Canny(np.asarray(image.convert("RGB")), 100, 200)) > 0


def agreement(seen: Edges, wanted: Edges, *, tolerance_px: float = 3.0) -> float:
    """F1, 0..1: edges count as found, and as justified, where the other set has one within the tolerance."""
    if not seen.any() or not wanted.any():
        return float(seen.any() == wanted.any())
    found = (ndimage.distance_transform_edt(~seen)[wanted] <= tolerance_px).mean()
    justified = (ndimage.distance_transform_edt(~wanted)[seen] <= tolerance_px).mean()
    return float(2 * found * justified / max(1e-9, found + justified))
