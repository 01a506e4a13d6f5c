"""What no engine of this server can draw, told in sentences instead of drawn wrongly."""

from __future__ import annotations

from typing import assert_never

from sdapi.domain.generation import AnyRequest, ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale


def missing(request: AnyRequest) -> str | None:
    """A sentence that names what the request needs and this server lacks; None when it can be drawn."""
    match request:
        case Txt2Img() | Img2Img() | Inpaint() | ControlNet():
            lacking = _lacking_option(request)
        case Text2Video() | Upscale():
            lacking = None
        case _:
            assert_never(request)
    return None if lacking is None else f"{lacking} is not available on this server."


def _lacking_option(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> str | None:
    if request.highres_fix and (
        isinstance(request, Img2Img | Inpaint) or (isinstance(request, ControlNet) and request.draws_over_init_image)
    ):
        return "The high-resolution fix (highres_fix) of a drawing that starts from a picture"
    if request.panorama and not isinstance(request, Txt2Img):
        return "A panorama (panorama) of a drawing that is led by a picture"
    return None
