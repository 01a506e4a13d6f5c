"""Says what a picture shows, from its pixels alone: background colour, shape colour, shape class, size and place.

Written for the demo model's world and nothing else. On the drawings themselves it is right about everything
(`tests/unit/test_demo_detector.py`), so that what it finds wrong in a generated picture is the model's error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .drawing import draw
from .scenes import COLOURS, OUT_OF_THE_MIDDLE, POSITIONS, SHAPES, SIZES, Scene, pattern_tone

_TEMPLATE_PX = 64
_TEMPLATE_AREA = 0.22
"""Share of a template that the shape covers, whatever its class."""
_SMALL_BELOW = (SIZES["small"][1] + OUT_OF_THE_MIDDLE[0]) / 2
_LARGE_ABOVE = (SIZES["medium"][1] + SIZES["large"][0]) / 2
_OFF_CENTRE = POSITIONS["left"][0] / -2


@dataclass(frozen=True)
class Finding:
    """What the detector sees. `shape` is None when nothing but background is there."""

    background: str
    colour: str | None
    shape: str | None
    size: str | None
    position: str | None
    overlap: float
    """Intersection over union with the best template, 0..1: how well-formed the shape is."""

    def shows(self, scene: Scene) -> bool:
        """Whether background colour, shape colour and shape class are those of `scene`."""
        return (self.background, self.colour, self.shape) == (scene.background, scene.colour, scene.shape)


def detect(image: Image.Image) -> Finding:
    """Look at an RGB picture of any size from about 64 px on."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    height, width, _ = pixels.shape
    names, tones = _tones()
    nearest = np.linalg.norm(pixels[:, :, None, :] - tones, axis=-1).argmin(-1) if pixels.size < 1_000_000 else _nearest(pixels, tones)
    labels = names[nearest]
    rim = max(2, round(min(width, height) * 0.05))
    inside = np.zeros((height, width), dtype=bool)
    inside[rim:-rim, rim:-rim] = True
    background = _most(labels[~inside])
    foreground = (labels != background) & inside
    # The soft edge between two colours looks like a third: only the inner part of the foreground may vote for its colour.
    core = ndimage.binary_erosion(foreground, iterations=max(1, round(min(width, height) / 64)))
    votes = labels[core] if core.any() else labels[foreground]
    if votes.size < 0.004 * labels.size:
        return Finding(list(COLOURS)[background], None, None, None, None, 0.0)
    colour = _most(votes)
    mask = _mask(pixels, list(COLOURS.values())[colour], names, tones, background) & inside
    mask = _largest(ndimage.median_filter(mask, size=3))
    if mask.sum() < 0.003 * mask.size:
        return Finding(list(COLOURS)[background], list(COLOURS)[colour], None, None, None, 0.0)
    shape, overlap = _classify(mask)
    rows, columns = np.nonzero(mask)
    radius = math.sqrt(mask.sum() / _unit_area(shape)) / min(width, height)
    x, y = (columns.min() + columns.max()) / 2 / width - 0.5, (rows.min() + rows.max()) / 2 / height - 0.5
    size = "small" if radius < _SMALL_BELOW else "large" if radius > _LARGE_ABOVE else "medium"
    return Finding(list(COLOURS)[background], list(COLOURS)[colour], shape, size, _place(x, y), overlap)


@cache
def _tones() -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Index of the colour, and RGB, of every tone: each colour and its darker pattern tone."""
    colours = list(COLOURS.values())
    tones = np.array([*colours, *(pattern_tone(c) for c in colours)], dtype=np.float32)
    return np.array([*range(len(colours)), *range(len(colours))]), tones


def _nearest(pixels: NDArray[np.float32], tones: NDArray[np.float32]) -> NDArray[np.intp]:
    best = np.full(pixels.shape[:2], np.inf, dtype=np.float32)
    index = np.zeros(pixels.shape[:2], dtype=np.intp)
    for i, tone in enumerate(tones):
        distance = ((pixels - tone) ** 2).sum(-1)
        closer = distance < best
        best[closer], index[closer] = distance[closer], i
    return index


def _most(labels: NDArray[np.intp]) -> int:
    return int(np.bincount(labels.ravel(), minlength=len(COLOURS)).argmax())


def _mask(
    pixels: NDArray[np.float32], ink: tuple[int, int, int], names: NDArray[np.intp], tones: NDArray[np.float32], background: int
) -> NDArray[np.bool_]:
    """Pixels nearer to the shape's colour than to either tone of the background, so that edges fall half-way."""
    to_ink = ((pixels - np.array(ink, dtype=np.float32)) ** 2).sum(-1)
    to_ground = np.min([((pixels - tone) ** 2).sum(-1) for tone in tones[names == background]], axis=0)
    return np.asarray(to_ink < to_ground)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())


def _classify(mask: NDArray[np.bool_]) -> tuple[str, float]:
    seen = _normalised(mask)
    scores = {shape: (seen & template).sum() / (seen | template).sum() for shape, template in _templates().items()}
    best = max(scores, key=lambda shape: float(scores[shape]))
    return best, float(scores[best])


def _normalised(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask moved to the middle of a small square and scaled to a fixed area."""
    cy, cx = ndimage.center_of_mass(mask)
    scale = math.sqrt(mask.sum() / (_TEMPLATE_AREA * _TEMPLATE_PX**2))
    middle = (_TEMPLATE_PX - 1) / 2
    offset = (cy - middle * scale, cx - middle * scale)
    shape = (_TEMPLATE_PX, _TEMPLATE_PX)
    out = ndimage.affine_transform(mask.astype(np.float32), np.array([scale, scale]), offset=offset, output_shape=shape, order=1)
    return np.asarray(out > 0.5)


@cache
def _templates() -> dict[str, NDArray[np.bool_]]:
    return {shape: _normalised(_drawn(shape)) for shape in SHAPES}


@cache
def _unit_area(shape: str) -> float:
    """Area of the shape in squared radii."""
    mask = _drawn(shape)
    return float(mask.sum()) / (0.3 * mask.shape[0]) ** 2


def _drawn(shape: str) -> NDArray[np.bool_]:
    picture = draw(Scene(shape=shape, colour="white", background="black", radius=0.3), 256, 256)
    return np.asarray(np.asarray(picture.convert("L")) > 127)


def _place(x: float, y: float) -> str:
    if max(abs(x), abs(y)) < _OFF_CENTRE:
        return "centre"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"
