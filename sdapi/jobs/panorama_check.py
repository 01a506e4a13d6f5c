"""Which requests can be panoramas, told before anything is stored. What families can't do at all is told by `family_check.py`."""

from __future__ import annotations

from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest


def check_panorama(asked: Asked) -> None:
    """Raises InvalidRequest."""
    if asked.panorama and asked.kind != "txt2img":
        sentence = "A panorama is drawn from words alone: send no, or leave it out, where there is a picture, a control net or a film."
        raise InvalidRequest.of("panorama", sentence)
