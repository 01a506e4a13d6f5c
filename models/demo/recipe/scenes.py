"""What a picture of the demo model's world contains, as a value."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Final

RGB = tuple[int, int, int]

COLOURS: Final[dict[str, RGB]] = {
    "red": (220, 30, 40),
    "green": (40, 160, 60),
    "blue": (30, 70, 220),
    "yellow": (250, 220, 40),
    "orange": (255, 130, 0),
    "purple": (120, 40, 170),
    "pink": (255, 140, 190),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
"""The palette: every drawn surface has one of these colours, or its pattern tone."""

SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "ring", "cross")
PATTERNS: Final = ("plain", "striped", "checkered", "dotted")
SIZES: Final[dict[str, tuple[float, float]]] = {"small": (0.195, 0.22), "medium": (0.27, 0.33), "large": (0.37, 0.41)}
"""Radius of the shape as a share of the picture's shorter side, lowest and highest."""
OUT_OF_THE_MIDDLE: Final = (0.255, 0.285)
"""Radius of a middling shape that is not in the middle: it must still fit."""
POSITIONS: Final[dict[str, tuple[float, float]]] = {
    "centre": (0.0, 0.0),
    "left": (-0.14, 0.0),
    "right": (0.14, 0.0),
    "top": (0.0, -0.14),
    "bottom": (0.0, 0.14),
}
"""Offset of the shape's centre from the picture's, as shares of width and height."""


def pattern_tone(colour: RGB) -> RGB:
    """The second tone of a patterned background: the same hue, darker (lighter for black, so that it shows)."""
    if max(colour) < 60:
        return (75, 75, 75)
    return (round(colour[0] * 0.72), round(colour[1] * 0.72), round(colour[2] * 0.72))


@dataclass(frozen=True)
class Scene:
    """One shape on one background."""

    shape: str
    colour: str
    background: str
    pattern: str = "plain"
    size: str = "medium"
    position: str = "centre"
    radius: float = 0.30
    """Share of the shorter side."""
    centre: tuple[float, float] = (0.5, 0.5)
    """Shares of width and height."""
    tilt_rad: float = 0.0
    cells: int = 8
    """How many pattern periods fit the shorter side."""

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination of shape, colour and background (one in eight)."""
        name = f"{self.shape}/{self.colour}/{self.background}"
        return hashlib.sha256(name.encode()).digest()[0] % 8 == 0


def draw_scene(rng: random.Random, *, wide: float = 1.0, held_out: bool = False) -> Scene:
    """A random scene from the training half of the world, or from the held-out combinations.

    `wide` in 0..1 is how much of the variety is open: 0 is one middling shape in the middle of a plain background.
    """
    while True:
        colour, background = rng.sample(sorted(COLOURS), 2)
        shape = rng.choice(SHAPES)
        candidate = Scene(shape=shape, colour=colour, background=background)
        if candidate.held_out == held_out:
            break
    size, position, pattern = "medium", "centre", "plain"
    if rng.random() < 0.35 * wide:
        position = rng.choice(("left", "right", "top", "bottom"))
    elif rng.random() < 0.5 * wide:
        size = rng.choice(("small", "large"))
    if rng.random() < 0.2 * wide:
        pattern = rng.choice(PATTERNS[1:])
    low, high = SIZES[size] if position == "centre" else OUT_OF_THE_MIDDLE
    jitter = 0.01 + 0.015 * wide
    dx, dy = POSITIONS[position]
    return Scene(
        shape=shape,
        colour=colour,
        background=background,
        pattern=pattern,
        size=size,
        position=position,
        radius=rng.uniform(low, high),
        centre=(0.5 + dx + rng.uniform(-jitter, jitter), 0.5 + dy + rng.uniform(-jitter, jitter)),
        tilt_rad=rng.uniform(-0.06, 0.06) * wide,
        cells=rng.choice((6, 8)),
    )
