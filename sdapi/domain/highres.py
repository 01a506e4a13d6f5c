"""The high-resolution fix: a picture drawn at a size its model knows, then enlarged and drawn over at the size that was asked for.

Models repeat their subject on a canvas much larger than those they were trained on; a smaller drawing settles the composition first.
Both drawings have the request's prompt, seed, steps and sampler, and the second makes int(steps * STRENGTH) steps. A1111 calls this
"Hires. fix" and asks for the first size and a factor; here a request names the size of the picture it gets, as in all its other fields.
"""

from __future__ import annotations

import math
from typing import Final

from .generation import MIN_SIDE_PX

STRENGTH: Final = 0.6
"""How much of the enlarged drawing is noised away. Less leaves it blurred, more lets the model begin anew."""
_LARGEST_SHARE: Final = 0.75
"""Of each side: at a model's own size there is little to fix, and half the sides would be too small for it."""
_GRID_PX: Final = 8


def first_size(width: int, height: int, *, native_px: int) -> tuple[int, int]:
    """Width and height of the first drawing, in pixels, multiples of 8 and at least 64.

    It has the aspect of the picture and the area of the size the model was made for, `native_px` each way, but never more than three
    quarters of the sides.
    """
    share = min(_LARGEST_SHARE, native_px / math.sqrt(width * height))
    return _on_grid(width * share), _on_grid(height * share)


def _on_grid(side_px: float) -> int:
    return max(MIN_SIDE_PX, round(side_px / _GRID_PX) * _GRID_PX)
