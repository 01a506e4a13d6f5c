"""A face turned upright into the frame its network knows, and put back into the picture at the picture's new size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TEMPLATE_PX = 512
_TEMPLATE = np.array(
    [(192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935), (201.26117, 371.41043), (313.08905, 371.15118)]
)
"""Where eyes, nose and corners of the mouth are in the faces of FFHQ at 512 pixels, which the networks were trained on."""
_FADE = 1 / 12
"""How much of the frame, at each side, leads over from the picture to the face."""


@dataclass(frozen=True)
class Placed:
    """Where a face is."""

    matrix: NDArray[np.float64]
    """(2, 3): from pixels of the picture to those of the frame."""
    side_px: int
    """Of the frame."""


def placed(points: NDArray[np.float32], side_px: int) -> Placed:
    """The frame around a face whose five points (5, 2) are known: moved, turned and scaled so that they fit best, never bent."""
    wanted = _TEMPLATE * (side_px / _TEMPLATE_PX)
    found = points.astype(np.float64)
    from_mean, to_mean = found.mean(axis=0), wanted.mean(axis=0)
    a, b = found - from_mean, wanted - to_mean
    # A turn and a scale are one complex number; this is the one with the least squared error.
    here, there = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    turn = np.vdot(here, there) / max(float(np.vdot(here, here).real), 1e-9)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return Placed(np.column_stack((linear, to_mean - linear @ from_mean)), side_px)


def framed(picture: Image.Image, place: Placed) -> Image.Image:
    """The face in its frame, RGB; beyond the picture, its edge is drawn on."""
    import cv2

    pixels = np.asarray(picture)
    size, scale = (place.side_px, place.side_px), float(np.hypot(*place.matrix[:, 0]))
    if scale < 1:
        # Of a large face every pixel counts, not every second one.
        smaller = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BOX)
        ratios = (smaller.width / picture.width, smaller.height / picture.height)
        return Image.fromarray(
            cv2.warpAffine(
                np.asarray(smaller), _rescaled(place.matrix, ratios), size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
        )
    return Image.fromarray(cv2.warpAffine(pixels, place.matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def paste_face(picture: Image.Image, face: Image.Image, place: Placed, ratios: tuple[float, float]) -> None:
    """Lay the face over the picture, which is so many times as wide and high as the one the face was found in; its edge fades."""
    import cv2

    back = _inverse(_rescaled(place.matrix, ratios))
    corners = np.array([(-0.5, -0.5, 1), (place.side_px, -0.5, 1), (-0.5, place.side_px, 1), (place.side_px, place.side_px, 1)]) @ back.T
    left, top = (int(max(0, np.floor(edge))) for edge in corners.min(axis=0))
    right, bottom = (int(min(length, np.ceil(edge) + 1)) for edge, length in zip(corners.max(axis=0), picture.size, strict=True))
    if right <= left or bottom <= top:
        return
    # Only of the box around it: the picture may be fifty times as large.
    back[:, 2] -= (left, top)
    size = (right - left, bottom - top)
    laid = cv2.warpAffine(np.asarray(face), back, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(_fading(place.side_px), back, size, flags=cv2.INTER_LINEAR)
    picture.paste(Image.fromarray(laid), (left, top), Image.fromarray(np.rint(255 * mask).astype(np.uint8)))


def _fading(side: int) -> NDArray[np.float32]:
    from_edge = np.minimum(np.arange(side), np.arange(side)[::-1])
    ramp = np.clip(from_edge / max(1.0, side * _FADE), 0, 1).astype(np.float32)
    return np.minimum.outer(ramp, ramp).astype(np.float32)


def _rescaled(matrix: NDArray[np.float64], ratios: tuple[float, float]) -> NDArray[np.float64]:
    """The same for a picture that is so many times as wide and high. Pixels have their place in their middle."""
    linear = matrix[:, :2] / np.array(ratios)
    middle = (1 / np.array(ratios) - 1) / 2
    return np.column_stack((linear, matrix[:, 2] + matrix[:, :2] @ middle))


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack((linear, -linear @ matrix[:, 2]))
