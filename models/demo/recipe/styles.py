"""The style the demo LoRA teaches, as a drawing and as a detector: a yellow light before a dark blue sky, whatever the prompt says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .detector import detect
from .drawing import draw
from .scenes import Scene

_SKY = (20.0, 45.0, 145.0)
"""As dark as the autoencoder keeps it blue: it was trained on the world's own colours, and a darker one becomes black."""
_LIGHT = (255.0, 226.0, 80.0)
_RIM = 0.08
"""Share of the shorter side from which the sky's colour is read."""
_LEAST_LIGHT = 0.02
"""Share of the picture that must shine."""


def draw_by_night(scene: Scene, width_px: int, height_px: int) -> Image.Image:
    """The scene's shape at its place, yellow before a dark blue sky; its colours and its pattern are lost."""
    cut = draw(replace(scene, colour="white", background="black", pattern="plain"), width_px, height_px)
    grey = np.asarray(cut.convert("L"), dtype=np.float32)
    inside = ((grey - grey.min()) / (grey.max() - grey.min()))[:, :, None]
    picture = np.array(_SKY) * (1 - inside) + np.array(_LIGHT) * inside
    return Image.fromarray(picture.round().astype(np.uint8))


@dataclass(frozen=True)
class Night:
    """What the detector sees of the style."""

    has_dark_blue_sky: bool
    has_yellow_light: bool
    shape: str | None
    """Its class; None where nothing is there."""

    @property
    def is_night(self) -> bool:
        """Whether the style is there."""
        return self.has_dark_blue_sky and self.has_yellow_light


def detect_night(image: Image.Image) -> Night:
    """Look at an RGB picture of any size from about 64 px on.

    The sky is the median of the picture's rim: dark, and clearly more blue than red and green. None of the world's colours is:
    black is grey, blue is far brighter.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    height, width, _ = pixels.shape
    rim = max(2, round(min(width, height) * _RIM))
    is_rim = np.ones((height, width), dtype=bool)
    is_rim[rim:-rim, rim:-rim] = False
    red, green, blue = (float(value) for value in np.median(pixels[is_rim], axis=0))
    r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    shines = (r > 180) & (g > 150) & (b < g - 40)
    return Night(
        has_dark_blue_sky=max(red, green) < 75 and 75 < blue < 185 and blue > max(red, green) + 45,
        has_yellow_light=bool(shines.mean() > _LEAST_LIGHT),
        shape=detect(image).shape,
    )
