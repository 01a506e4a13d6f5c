"""Which sizes fit into the files that were asked for, told before anything is recorded.

Only enlarged pictures can be too large: the largest drawing (4096 px, enlarged three times) fits into all of them.
"""

from __future__ import annotations

from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.picture_formats import LONGEST_SIDES_PX


def check_format(asked: Asked, width: int, height: int) -> None:
    """Refuse an enlargement of a picture of that size that becomes too long for the format asked for. Raises InvalidRequest."""
    longest_px = LONGEST_SIDES_PX.get(asked.output_format)
    result = round(width * asked.scale), round(height * asked.scale)
    if longest_px is not None and max(result) > longest_px:
        sentence = (
            f"A {asked.output_format} file holds at most {longest_px} pixels on a side, and {result[0]} x {result[1]} would come out. "
            "Ask for png, or for a smaller scale."
        )
        raise InvalidRequest.of("output_format", sentence)
