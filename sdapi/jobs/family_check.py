"""Whether a model's family can draw what is asked, told before anything is recorded."""

from __future__ import annotations

from sdapi.catalog import Checkpoint
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.families import refusal, suited
from sdapi.domain.generation import AnyRequest, ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img

from .film_check import suited_film


def suited_to_family(request: AnyRequest, checkpoint: Checkpoint) -> AnyRequest:
    """The request as the family draws it: without what its models replace by their own. Raises InvalidRequest for what they can't do."""
    if isinstance(request, Text2Video):
        return suited_film(request, checkpoint)
    if not isinstance(request, Txt2Img | Img2Img | Inpaint | ControlNet):
        return request
    if (refused := refusal(checkpoint.family, request)) is not None:
        raise InvalidRequest.of(*refused)
    return suited(checkpoint.family, request)
