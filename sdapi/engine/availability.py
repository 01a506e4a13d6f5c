"""What no engine of this server can draw, told in sentences instead of drawn wrongly."""

from __future__ import annotations

from typing import assert_never

from sdapi.domain.generation import AnyRequest, ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale


def missing(request: AnyRequest) -> str | None:
    """A sentence that names what the request needs and this server lacks; None when it can be drawn."""
    match request:
        case Txt2Img() | Img2Img() | Inpaint() | ControlNet():
            lacking = _lacking_option(request)
        case Text2Video():
            lacking = "Text to video"
        case Upscale():
            lacking = "Upscaling"
        case _:
            assert_never(request)
    return None if lacking is None else f"{lacking} is not available on this server."


def _lacking_option(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> str | None:
    if request.panorama:
        return "Panorama"
    if request.self_attention:
        return "Self-attention guidance (self_attention)"
    if request.highres_fix:
        return "The high-resolution fix (highres_fix)"
    if request.multi_lingual:
        return "Translating prompts (multi_lingual)"
    if request.upscale:
        return "Upscaling"
    return None
