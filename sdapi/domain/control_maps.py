"""What `controlnet_type` may name: the maps that are made without a model, those that need one, and other spellings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from .errors import InvalidRequest


class ControlMap(StrEnum):
    """Maps that are computed from a picture without weights."""

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


NEED_WEIGHTS = frozenset({"depth", "hed", "normal", "openpose", "segmentation", "face_detector"})
"""Maps that only a trained annotator makes."""

_OTHER_SPELLINGS: Mapping[str, str] = {
    # That net was trained on Canny outlines (its model card, krea/aesthetic-controlnet).
    "aesthetic-controlnet": "canny",
    "pose": "openpose",
    "qr": "qrcode",
    "seg": "segmentation",
    "soft_edge": "softedge",
}


def control_map_of(controlnet_type: str) -> ControlMap:
    """The map a `controlnet_type` names. Raises InvalidRequest where this server can't make it."""
    spelt = controlnet_type.strip().lower()
    name = _OTHER_SPELLINGS.get(spelt, spelt)
    if name in set(ControlMap):
        return ControlMap(name)
    if name in NEED_WEIGHTS:
        sentence = (
            f"The controlnet_type {controlnet_type!r} needs an annotator model (models/annotators/{name}/), which is not installed. "
            "Send the finished map instead: with auto_hint no, or without controlnet_type."
        )
        raise InvalidRequest.of("controlnet_type", sentence)
    known = ", ".join(ControlMap)
    raise InvalidRequest.of("controlnet_type", f"There is no controlnet_type {controlnet_type!r}. This server makes: {known}.")
