"""Which requests can have the high-resolution fix, told before anything is stored."""

from __future__ import annotations

from sdapi.catalog import FAMILY_NAMES, UNET_FAMILIES, Checkpoint
from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest


def check_highres(asked: Asked, checkpoint: Checkpoint) -> None:
    """Raises InvalidRequest."""
    if not asked.highres_fix:
        return
    roles = {picture.role for picture in asked.pictures}
    draws_over = "init_image" in roles and len(roles) > 1
    if asked.kind != "txt2img" and (asked.kind != "controlnet" or draws_over):
        sentence = (
            "The highres_fix is for pictures that are drawn from words, with or without control nets. Send no, or leave it out: "
            "a drawing that starts from a picture keeps its composition at any size."
        )
        raise InvalidRequest.of("highres_fix", sentence)
    if asked.panorama:
        raise InvalidRequest.of("highres_fix", "The highres_fix and panorama are two ways to a large picture: only one of them can be yes.")
    if checkpoint.family not in UNET_FAMILIES:
        it_is = f"{checkpoint.id!r} is of the family {FAMILY_NAMES[checkpoint.family]}"
        raise InvalidRequest.of("highres_fix", f"It needs a Stable Diffusion 1.x, 2.x or XL model, and {it_is}: send no, or leave it out.")
