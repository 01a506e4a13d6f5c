"""Where faces are in a picture, by OpenCV's face detector (YuNet), drawn as control nets for faces were shown them.

Those nets were trained on the mesh of MediaPipe: the outline of the head, the eyes, the brows and the mouth, each in its colour. YuNet
tells the box of a face and five points in it, so the lines here are ellipses and arcs around those: the right places, sizes and
colours, but no expressions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdapi.catalog import Refused
from sdapi.domain.control_maps import ControlMap
from sdapi.pipelines.control.annotators import Map, Rgb

_FACE_FROM = 0.6
"""How sure the detector must be, from 0 to 1."""
_HEAD, _MOUTH = (10, 200, 10), (10, 180, 10)
_EYES = ((180, 200, 10), (10, 200, 180))
_BROWS = ((180, 220, 10), (10, 220, 180))
"""Red, green, blue; the right eye of the person first, which is the left one in the picture."""
_USUAL_PX, _USUAL_LINE_PX = 512, 2


@dataclass(frozen=True)
class Face:
    """One face, in pixels."""

    box: tuple[float, float, float, float]
    """Left, top, width, height."""
    points: NDArray[np.float32]
    """(5, 2): right eye, left eye, tip of the nose, right and left corner of the mouth, as the person has them."""


class FaceAnnotator:
    """Makes maps of faces; for use from the device thread only."""

    def __init__(self, path: Path) -> None:
        """Raises Refused where OpenCV can't read the file."""
        import cv2

        try:
            self._detector: Any = cv2.FaceDetectorYN.create(str(path), "", (320, 320), _FACE_FROM)
        except cv2.error as error:
            raise Refused("OpenCV can't read it as a face detection model.") from error
        self.size_bytes = path.stat().st_size

    def map_of(self, _: ControlMap, rgb: Rgb) -> Map:
        """Of the picture's size; black where there is no face."""
        return draw_faces(self.faces_in(rgb), *rgb.shape[:2])

    def faces_in(self, rgb: Rgb) -> list[Face]:
        """The surest first."""
        height, width = rgb.shape[:2]
        self._detector.setInputSize((width, height))
        found = self._detector.detect(np.ascontiguousarray(rgb[:, :, ::-1]))[1]
        rows = np.zeros((0, 15), dtype=np.float32) if found is None else np.asarray(found, dtype=np.float32)
        return [Face(tuple(row[:4].tolist()), row[4:14].reshape(5, 2)) for row in rows]


def draw_faces(faces: list[Face], height: int, width: int) -> Map:
    """On black."""
    import cv2

    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    line_px = max(1, round(_USUAL_LINE_PX * min(height, width) / _USUAL_PX))
    for face in faces:
        left, top, across, down = face.box
        eyes, mouth = face.points[:2], face.points[3:5]
        tilt = math.degrees(math.atan2(*(eyes[1] - eyes[0])[::-1]))
        up = np.array([math.sin(math.radians(tilt)), -math.cos(math.radians(tilt))], dtype=np.float32)
        apart = max(1.0, float(np.linalg.norm(eyes[1] - eyes[0])))

        def arc(
            centre: NDArray[np.float32],
            radii: tuple[float, float],
            colour: tuple[int, int, int],
            start: int = 0,
            end: int = 360,
            *,
            tilt: float = tilt,
        ) -> None:
            at, axes = (round(float(centre[0])), round(float(centre[1]))), (max(1, round(radii[0])), max(1, round(radii[1])))
            cv2.ellipse(canvas, at, axes, tilt, start, end, colour, line_px)

        arc(np.array([left + across / 2, top + down / 2], dtype=np.float32), (across / 2, down / 2), _HEAD)
        for eye, eye_colour, brow_colour in zip(eyes, _EYES, _BROWS, strict=True):
            arc(eye, (apart * 0.2, apart * 0.09), eye_colour)
            arc(eye + up * apart * 0.12, (apart * 0.3, apart * 0.18), brow_colour, 200, 340)
        arc(mouth.mean(axis=0), (float(np.linalg.norm(mouth[1] - mouth[0])) / 2, apart * 0.13), _MOUTH)
    return canvas.astype(np.float32) / 255.0
