"""What `controlnet_type` may name: the maps that are made of a picture, which of them need a trained annotator, and other spellings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from .errors import InvalidRequest


class ControlMap(StrEnum):
    """Maps that are made of a picture."""

    CANNY = "canny"
    """White outlines, one pixel wide."""
    SCRIBBLE = "scribble"
    """Coarse white strokes."""
    SOFTEDGE = "softedge"
    """The strength of edges as grey."""
    LINEART = "lineart"
    """Fine lines as a pen would draw them, white on black."""
    MLSD = "mlsd"
    """Straight lines only."""
    SHUFFLE = "shuffle"
    """The picture's colours, displaced."""
    TILE = "tile"
    """The picture without its fine detail."""
    INPAINT = "inpaint"
    """The picture, with what the mask shows marked as missing."""
    QRCODE = "qrcode"
    """The picture as it is."""
    HED = "hed"
    """The strength of the outlines a network has learned to see, as grey."""
    DEPTH = "depth"
    """What is nearer is brighter."""
    NORMAL = "normal"
    """Which way surfaces face, as colours."""
    SEGMENTATION = "segmentation"
    """Every kind of thing in its colour."""
    OPENPOSE = "openpose"
    """The skeletons of the people in it."""
    FACE_DETECTOR = "face_detector"
    """The outlines of the faces in it."""


class AnnotatorName(StrEnum):
    """A trained annotator is installed as a folder of this name."""

    DEPTH = "depth"
    HED = "hed"
    LINEART = "lineart"
    OPENPOSE = "openpose"
    SEGMENTATION = "segmentation"
    FACE_DETECTOR = "face_detector"


@dataclass(frozen=True)
class _Made:
    by: AnnotatorName
    is_made_without: bool = False
    """Whether there is a plainer map where the annotator isn't installed."""


_MADE: Mapping[ControlMap, _Made] = {
    ControlMap.DEPTH: _Made(AnnotatorName.DEPTH),
    ControlMap.NORMAL: _Made(AnnotatorName.DEPTH),
    ControlMap.HED: _Made(AnnotatorName.HED),
    ControlMap.SOFTEDGE: _Made(AnnotatorName.HED, is_made_without=True),
    ControlMap.LINEART: _Made(AnnotatorName.LINEART, is_made_without=True),
    ControlMap.OPENPOSE: _Made(AnnotatorName.OPENPOSE),
    ControlMap.SEGMENTATION: _Made(AnnotatorName.SEGMENTATION),
    ControlMap.FACE_DETECTOR: _Made(AnnotatorName.FACE_DETECTOR),
}

_TO_INSTALL: Mapping[AnnotatorName, str] = {
    AnnotatorName.DEPTH: "a depth estimation model in transformers' format (DPT, Depth Anything)",
    AnnotatorName.HED: "the HED network of ControlNet's annotators as safetensors",
    AnnotatorName.LINEART: "the line drawing network of ControlNet's annotators as safetensors",
    AnnotatorName.OPENPOSE: "a pose estimation model (VitPose) into pose/ and an object detection model (RT-DETR) into people/",
    AnnotatorName.SEGMENTATION: "a segmentation model for ADE20K in transformers' format (UperNet, SegFormer)",
    AnnotatorName.FACE_DETECTOR: "a face detection model (YuNet) as .onnx",
}

_OTHER_SPELLINGS: Mapping[str, str] = {
    # That net was trained on Canny outlines (its model card, krea/aesthetic-controlnet).
    "aesthetic-controlnet": "canny",
    "pose": "openpose",
    "qr": "qrcode",
    "seg": "segmentation",
    "soft_edge": "softedge",
}


def control_map_of(controlnet_type: str) -> ControlMap:
    """The map a `controlnet_type` names. Raises InvalidRequest where nobody knows it."""
    spelt = controlnet_type.strip().lower()
    name = _OTHER_SPELLINGS.get(spelt, spelt)
    if name in set(ControlMap):
        return ControlMap(name)
    known = ", ".join(ControlMap)
    raise InvalidRequest.of("controlnet_type", f"There is no controlnet_type {controlnet_type!r}. This server knows: {known}.")


def annotator_of(kind: ControlMap, installed: Collection[AnnotatorName]) -> AnnotatorName | None:
    """The trained annotator that makes the map, given those that are installed; None where it is made without.

    Raises InvalidRequest where the one it needs isn't installed.
    """
    made = _MADE.get(kind)
    if made is None or (made.is_made_without and made.by not in installed):
        return None
    if made.by in installed:
        return made.by
    sentence = (
        f"The controlnet_type {kind.value!r} is not available on this server: put {_TO_INSTALL[made.by]} into "
        f"models/annotators/{made.by}/. Or send the finished map: with auto_hint no, or without controlnet_type."
    )
    raise InvalidRequest.of("controlnet_type", sentence)
