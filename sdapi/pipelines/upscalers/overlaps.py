"""Tiles that overlap and are faded into each other: for networks that draw something of their own, so that no two tiles agree exactly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Patch:
    """One tile, in pixels of the input."""

    left: int
    top: int
    width: int
    height: int
    overlap_left: int
    """How much of it the patch before it has drawn already; 0 at the edge of the picture."""
    overlap_top: int
    ends_row: bool


def patches_of(width: int, height: int, *, side_px: int, grain_px: int) -> list[Patch]:
    """Patches of at most `side_px` that cover the picture, row by row. All numbers are multiples of `grain_px`."""
    downs, acrosses = (_spans(length, side_px, grain_px) for length in (height, width))
    return [
        Patch(left, top, across, down, overlap_left, overlap_top, ends_row=left + across == width)
        for top, down, overlap_top in downs
        for left, across, overlap_left in acrosses
    ]


def _spans(length: int, side: int, grain: int) -> list[tuple[int, int, int]]:
    """(start, length, overlap with the one before) of each. They overlap by an eighth at least."""
    if length <= side:
        return [(0, length, 0)]
    overlap = -(-side // 8 // grain) * grain or grain
    starts = [*range(0, length - side, max(grain, side - overlap)), length - side]
    overlaps = [0, *(before + side - start for before, start in itertools.pairwise(starts))]
    return [(start, side, shared) for start, shared in zip(starts, overlaps, strict=True)]


@dataclass
class Mosaic:
    """A picture that grows out of patches, given in their order."""

    size: tuple[int, int]
    """Of the whole, in pixels of the result."""
    scale: int
    """How much larger the result is than the input."""
    _canvas: Image.Image | None = field(default=None, init=False)
    _strip: Image.Image | None = field(default=None, init=False)
    """The row of patches at hand: faded across by itself first, so that four patches meet without a seam."""

    def lay(self, patch: Patch, drawn: Image.Image) -> None:
        """Put the next patch into its place, `scale` times as large as the patch says."""
        if self._canvas is None:
            self._canvas = Image.new("RGB", self.size)
        if self._strip is None:
            self._strip = Image.new("RGB", (self.size[0], drawn.height))
        self._strip.paste(drawn, (patch.left * self.scale, 0), _fading(drawn.size, patch.overlap_left * self.scale, 0))
        if patch.ends_row:
            self._canvas.paste(self._strip, (0, patch.top * self.scale), _fading(self._strip.size, 0, patch.overlap_top * self.scale))
            self._strip = None

    @property
    def picture(self) -> Image.Image:
        """RGB; black where nothing was laid yet."""
        return self._canvas if self._canvas is not None else Image.new("RGB", self.size)


def _fading(size: tuple[int, int], left: int, top: int) -> Image.Image:
    """L: from nothing to all over so many pixels at the left and at the top."""
    across, down = (
        np.minimum((np.arange(length, dtype=np.float32) + 0.5) / max(1, over), 1.0) if over else np.ones(length, dtype=np.float32)
        for length, over in zip(size, (left, top), strict=True)
    )
    return Image.fromarray(np.rint(255 * down[:, None] * across[None, :]).astype(np.uint8))
