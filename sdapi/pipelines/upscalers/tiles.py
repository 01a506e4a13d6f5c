"""Where a large picture is cut: tiles with a margin that is thrown away, so that no seam shows and memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_MARGIN_PX = 16
"""Deep networks reach much farther in theory, but what comes from that far changes no pixel: published programs take 8 to 16."""
_FILTER_PX = 4
"""What is left of the margin for resizing the result to the asked size: Lanczos looks three pixels far."""
_MIN_CORE_PX = 32


@dataclass(frozen=True)
class Span:
    """One tile along one side, in pixels of the input."""

    start: int
    end: int
    """What the tile is for, without margin."""
    read_start: int
    read_end: int
    """What the network is shown."""


@dataclass(frozen=True)
class Tile:
    """One tile: a span of columns and one of rows."""

    across: Span
    down: Span

    @property
    def read_pixels(self) -> int:
        """How many pixels the network is shown."""
        return (self.across.read_end - self.across.read_start) * (self.down.read_end - self.down.read_start)


def tiles_of(width: int, height: int, *, reach_px: int, step_px: int, max_pixels: int) -> list[Tile]:
    """Tiles that cover the picture exactly, row by row; each shows the network at most about `max_pixels`.

    `reach_px` is how far a pixel matters; the margin is that or 16, whatever is less, and 4. Tiles begin at multiples of `step_px`,
    for networks that fold their input: these see a picture so much smaller, and have so much more margin.
    """
    margin = min(reach_px, _MAX_MARGIN_PX * step_px) + _FILTER_PX
    margin += -margin % step_px
    core = max(_MIN_CORE_PX, math.isqrt(max_pixels) - 2 * margin)
    if width * height <= max_pixels:
        core = max(width, height)
    return [Tile(across, down) for down in _spans(height, core, margin, step_px) for across in _spans(width, core, margin, step_px)]


def _spans(length: int, core: int, margin: int, step: int) -> Iterator[Span]:
    """As many as needed, all of about one length: a last sliver would cost as much margin as a whole tile."""
    count = math.ceil(length / core)
    each = math.ceil(length / count)
    each += -each % step
    for start in range(0, length, each):
        end = min(start + each, length)
        yield Span(start, end, max(0, start - margin), min(length, end + margin))
