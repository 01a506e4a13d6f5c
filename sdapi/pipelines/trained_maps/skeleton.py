"""People's poses as OpenPose draws them: what control nets for poses were shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdapi.pipelines.control.annotators import Map

# OpenPose's joints, by their place among COCO's 17; the neck is made of the shoulders.
_NECK = 1
_OF_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_COCO_SHOULDERS = (5, 6)

_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""Pairs of OpenPose's joints: arms, legs, head."""
_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170)),
    *((0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""Of each joint, and of the limb of the same place: once around the colours."""
_LIMB_BRIGHTNESS = 0.6
_USUAL_PX, _USUAL_WIDTH_PX = 512, 4
"""Half a limb is 4 px wide in a picture of 512; more in larger ones."""


@dataclass(frozen=True)
class Pose:
    """One person."""

    points: NDArray[np.float32]
    """(17, 2): x and y of COCO's joints, in pixels."""
    is_seen: NDArray[np.bool_]
    """(17,)."""


def draw_skeletons(poses: Sequence[Pose], height: int, width: int) -> Map:
    """On black. Joints that aren't seen are left out, and so are limbs that lead to them."""
    import cv2

    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    half_px = max(1, round(_USUAL_WIDTH_PX * min(height, width) / _USUAL_PX))
    people = [_joints(pose) for pose in poses]
    for joints in people:
        for colour, (one, other) in zip(_COLOURS, _LIMBS, strict=False):
            if (start := joints[one]) is not None and (end := joints[other]) is not None:
                middle = (round((start[0] + end[0]) / 2), round((start[1] + end[1]) / 2))
                across, down = end[0] - start[0], end[1] - start[1]
                axes = (round(math.hypot(across, down) / 2), half_px)
                outline = np.array(cv2.ellipse2Poly(middle, axes, round(math.degrees(math.atan2(down, across))), 0, 360, 1))
                cv2.fillConvexPoly(canvas, outline, [round(channel * _LIMB_BRIGHTNESS) for channel in colour])
    for joints in people:
        for colour, joint in zip(_COLOURS, joints, strict=True):
            if joint is not None:
                cv2.circle(canvas, (round(joint[0]), round(joint[1])), half_px, colour, thickness=-1)
    return canvas.astype(np.float32) / 255.0


def _joints(pose: Pose) -> list[tuple[float, float] | None]:
    """OpenPose's 18, None where one isn't seen."""
    coco = [(float(x), float(y)) if seen else None for (x, y), seen in zip(pose.points, pose.is_seen, strict=True)]
    joints = [None if place is None else coco[place] for place in _OF_COCO]
    left, right = (coco[place] for place in _COCO_SHOULDERS)
    if left is not None and right is not None:
        joints[_NECK] = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    return joints
