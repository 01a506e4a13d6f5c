"""Control maps from pictures, without weights: outlines, lines, colours. numpy and OpenCV, no torch.

Those that need a trained annotator, or are better for one, come from `trained_maps/`.
"""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdapi.domain.control_maps import ControlMap

Map = NDArray[np.float32]
"""(height, width, 3): what a control net is shown, 0 to 1; -1 where the picture is missing."""

Rgb = NDArray[np.uint8]
"""(height, width, 3)."""
_Grey = NDArray[np.uint8]

_CANNY_LOW, _CANNY_HIGH = 100, 200
"""What the control nets' training data was made with (ControlNet, appendix)."""
_STROKE_THRESHOLD = 32
_MIN_LINE_SHARE = 0.06
"""Of the picture's longer side; shorter straight pieces are texture."""
_SHUFFLE_CELL_PX = 256
_WHITE_FROM = 128


def control_map(kind: ControlMap | None, picture: Image.Image, *, seed: int, mask: Image.Image | None = None) -> Map:
    """The map of a picture, of the picture's size. None takes the picture as the map it is.

    `seed` matters to shuffle only; `mask` (L, of the same size, white is missing) to inpaint only.
    """
    rgb = rgb_of(picture)
    match kind:
        case None | ControlMap.QRCODE:
            return _scaled(rgb)
        case ControlMap.CANNY:
            return _from_grey(_canny(rgb))
        case ControlMap.SCRIBBLE:
            return _from_grey(_strokes(rgb))
        case ControlMap.SOFTEDGE:
            return _from_grey(_soft_edges(rgb))
        case ControlMap.LINEART:
            return _from_grey(_fine_lines(rgb))
        case ControlMap.MLSD:
            return _from_grey(_straight_lines(rgb))
        case ControlMap.SHUFFLE:
            return _scaled(_shuffled(rgb, seed))
        case ControlMap.TILE:
            return _scaled(_without_detail(rgb))
        case ControlMap.INPAINT:
            return _with_holes(rgb, mask)
        case (
            ControlMap.HED | ControlMap.DEPTH | ControlMap.NORMAL | ControlMap.SEGMENTATION | ControlMap.OPENPOSE | ControlMap.FACE_DETECTOR
        ):
            raise ValueError(f"a map of the kind {kind} is made by a trained annotator")
        case _:
            assert_never(kind)


def rgb_of(picture: Image.Image) -> Rgb:
    """Its pixels."""
    return np.asarray(picture.convert("RGB"))


def _scaled(rgb: NDArray[Any]) -> Map:
    return rgb.astype(np.float32) / 255.0


def _from_grey(grey: _Grey) -> Map:
    return _scaled(np.repeat(grey[:, :, None], 3, axis=2))


def _grey(rgb: Rgb) -> _Grey:
    import cv2

    grey: Any = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, dtype=np.uint8)


def _canny(rgb: Rgb) -> _Grey:
    import cv2

    edges: Any = cv2.Canny(rgb, _CANNY_LOW, _CANNY_HIGH)
    return np.asarray(edges, dtype=np.uint8)


def _strokes(rgb: Rgb) -> _Grey:
    """Difference of Gaussians, cut at a threshold: what is darker than its surroundings becomes a stroke."""
    import cv2

    picture = rgb.astype(np.float32)
    near: Any = cv2.GaussianBlur(picture, (0, 0), 0.5)
    far: Any = cv2.GaussianBlur(picture, (0, 0), 5.0)
    darker = (far - near).min(axis=2).clip(0, 255)
    return np.where(2 * darker > _STROKE_THRESHOLD, 255, 0).astype(np.uint8)


def _soft_edges(rgb: Rgb) -> _Grey:
    """Sobel's gradient of a slightly blurred picture; the strongest edge becomes white, however low the contrast."""
    import cv2

    blurred: Any = cv2.GaussianBlur(_grey(rgb).astype(np.float32), (0, 0), 1.0)
    across, down = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
    strength = np.hypot(np.asarray(across), np.asarray(down))
    # A plain picture has only rounding errors, which must not be stretched to white.
    return np.asarray(strength / max(float(strength.max()), 16.0) * 255, dtype=np.uint8)


def _fine_lines(rgb: Rgb) -> _Grey:
    """What is darker than a wide surrounding, weighed so that the usual line is middle grey."""
    import cv2

    picture = rgb.astype(np.float32)
    surrounding: Any = cv2.GaussianBlur(picture, (0, 0), 6.0)
    darker = (surrounding - picture).min(axis=2).clip(0, 255)
    lines = darker[darker > 8]
    usual = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return np.asarray((darker / usual * 127).clip(0, 255), dtype=np.uint8)


def _straight_lines(rgb: Rgb) -> _Grey:
    import cv2

    found: Any = cv2.createLineSegmentDetector().detect(_grey(rgb))[0]
    canvas = np.zeros(rgb.shape[:2], dtype=np.uint8)
    min_length_px = _MIN_LINE_SHARE * max(rgb.shape[:2])
    for x1, y1, x2, y2 in [] if found is None else np.asarray(found).reshape(-1, 4):
        if np.hypot(x2 - x1, y2 - y1) >= min_length_px:
            cv2.line(canvas, (round(float(x1)), round(float(y1))), (round(float(x2)), round(float(y2))), 255, 1)
    return canvas


def _shuffled(rgb: Rgb, seed: int) -> NDArray[Any]:
    """Every pixel takes the colour of another place, by two smooth random fields."""
    import cv2

    height, width = rgb.shape[:2]
    draws = np.random.default_rng(seed)
    x, y = (_smooth_noise(draws, height, width) for _ in range(2))
    shuffled: Any = cv2.remap(rgb, x * (width - 1), y * (height - 1), cv2.INTER_LINEAR)
    return np.asarray(shuffled)


def _smooth_noise(draws: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """(height, width), from 0 to 1, both reached."""
    import cv2

    cell = _SHUFFLE_CELL_PX
    coarse = draws.uniform(0, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    large: Any = cv2.resize(coarse, (width + 2 * cell, height + 2 * cell), interpolation=cv2.INTER_CUBIC)
    field: NDArray[np.float32] = np.asarray(large)[cell : cell + height, cell : cell + width]
    field = field - field.min()
    return (field / max(float(field.max()), 1e-6)).astype(np.float32)


def _without_detail(rgb: Rgb) -> NDArray[Any]:
    import cv2

    height, width = rgb.shape[:2]
    small: Any = cv2.pyrDown(rgb)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def _with_holes(rgb: Rgb, mask: Image.Image | None) -> Map:
    picture = _scaled(rgb)
    if mask is not None:
        picture[np.asarray(mask.convert("L")) >= _WHITE_FROM] = -1.0
    return picture
