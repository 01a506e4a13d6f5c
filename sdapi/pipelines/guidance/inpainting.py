"""Drawing a part of a picture anew: what a row keeps of the picture, in latents while it is drawn and in pixels at the end.

White in a mask is drawn anew, black is kept; grey counts as the nearer of the two for the drawing, and as a soft edge for the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor
from torch.nn import functional

from sdapi.pipelines.samplers.planned_samplers import AnySampler

_WHITE_FROM = 128
_EDGE_SHARE = 1 / 256
"""Of the picture's shorter side, but at least a pixel: standard deviation of the fade beyond the mask's edge, which hides the seam."""


@dataclass(frozen=True)
class LatentBlend:
    """The kept part of a row's picture, put back into its latents after every step. Shares devices and dtype with the latents."""

    clean: Tensor
    """(1, 4, height_px / 8, width_px / 8): the encoded picture."""
    noise: Tensor
    """Of the same shape: what the row started from, so that the kept part follows one path."""
    mask: Tensor
    """(1, 1, height_px / 8, width_px / 8): 1 where it is drawn anew, 0 where it is kept."""

    def blended(self, latents: Tensor, sampler: AnySampler) -> Tensor:
        """`latents` with the kept part as noisy as the sampler now expects it, or clean when that has finished."""
        kept = self.clean if sampler.finished else sampler.add_noise(self.clean, self.noise)
        return torch.lerp(kept, latents, self.mask)


@dataclass(frozen=True)
class PixelPaste:
    """The original picture and how much of the drawn one lies over it: decoding alone would change every pixel a little."""

    picture: Image.Image
    """RGB."""
    cover: Image.Image
    """L, of the same size: 255 shows the drawn picture, 0 the original."""

    def pasted(self, drawn: Image.Image) -> Image.Image:
        """The finished picture."""
        return Image.composite(drawn, self.picture, self.cover)


def pixel_paste(picture: Image.Image, mask: Image.Image) -> PixelPaste:
    """Everything within the mask comes from the drawn picture, and fades out over a few pixels around it."""
    edge_px = max(1.0, min(picture.size) * _EDGE_SHARE)
    # Doubled, because a blurred edge is at one half where it lies: so nothing drawn within the mask is lost.
    faded = _black_and_white(mask).filter(ImageFilter.GaussianBlur(edge_px)).point([min(2 * level, 255) for level in range(256)])
    return PixelPaste(picture, ImageChops.lighter(faded, mask))


def latent_mask(mask: Image.Image, *, cell_px: int) -> Tensor:
    """(1, 1, height / cell_px, width / cell_px), 0 or 1, float32 on the CPU. A cell with any white in it is drawn anew.

    diffusers asks each cell's first pixel alone, so that thin strokes are lost; for masks on the grid of cells it is the same.
    """
    return functional.max_pool2d(pixel_mask(mask), cell_px)


def pixel_mask(mask: Image.Image) -> Tensor:
    """(1, 1, height, width), 0 or 1, float32 on the CPU."""
    return torch.from_numpy(np.asarray(_black_and_white(mask), dtype=np.float32) / 255.0)[None, None]


def _black_and_white(mask: Image.Image) -> Image.Image:
    return mask.point([255 if level >= _WHITE_FROM else 0 for level in range(256)])
