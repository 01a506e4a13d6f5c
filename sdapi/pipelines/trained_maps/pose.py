"""People's poses, by two models of transformers: one that finds people (RT-DETR) and one that finds their joints (VitPose)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sdapi.catalog import Refused
from sdapi.domain.control_maps import ControlMap
from sdapi.pipelines.control.annotators import Map, Rgb

from .skeleton import Pose, draw_skeletons

_JOINTS = 17
_PERSON_FROM = 0.3
_JOINT_FROM = 0.3
"""How sure the models must be, from 0 to 1."""
_COCO_BODIES = 0
"""Of the data sets that models of several experts were trained on."""


class PoseAnnotator:
    """Makes maps of skeletons; for use from the device thread only."""

    def __init__(self, pose: Any, pose_processor: Any, people: Any, people_processor: Any, *, size_bytes: int) -> None:
        """Raises Refused where `people` knows no people, or `pose` not COCO's joints."""
        labels = {str(label).lower(): int(number) for number, label in people.config.id2label.items()}
        if "person" not in labels:
            raise Refused("The model in people/ has no class that is called person.")
        if pose.config.num_labels != _JOINTS:
            raise Refused(f"The model in pose/ finds {pose.config.num_labels} joints; those of COCO are {_JOINTS}.")
        self._pose = pose
        self._pose_processor = pose_processor
        self._people = people
        self._people_processor = people_processor
        self._person = labels["person"]
        self._has_experts = getattr(pose.config.backbone_config, "num_experts", 1) > 1
        self.size_bytes = size_bytes

    @torch.inference_mode()
    def map_of(self, _: ControlMap, rgb: Rgb) -> Map:
        """Of the picture's size; black where nobody is in it."""
        height, width = rgb.shape[:2]
        return draw_skeletons(self.poses(rgb), height, width)

    @torch.inference_mode()
    def poses(self, rgb: Rgb) -> list[Pose]:
        """Of everybody in the picture."""
        boxes = self._people_boxes(rgb)
        if not len(boxes):
            return []
        inputs = self._pose_processor(images=rgb, boxes=[boxes], return_tensors="pt").to(self._pose.device)
        experts = {"dataset_index": torch.full((len(boxes),), _COCO_BODIES, device=self._pose.device)} if self._has_experts else {}
        found = self._pose_processor.post_process_pose_estimation(self._pose(**inputs, **experts), boxes=[boxes])[0]
        return [
            Pose(one["keypoints"].float().cpu().numpy()[:, :2], np.atleast_1d(one["scores"].float().cpu().numpy()) >= _JOINT_FROM)
            for one in found
        ]

    def _people_boxes(self, rgb: Rgb) -> Any:
        """(people, 4): left, top, width, height, in pixels."""
        inputs = self._people_processor(images=rgb, return_tensors="pt").to(self._people.device)
        found = self._people_processor.post_process_object_detection(
            self._people(**inputs), threshold=_PERSON_FROM, target_sizes=[rgb.shape[:2]]
        )[0]
        boxes = found["boxes"][found["labels"] == self._person].float().cpu().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        return boxes
