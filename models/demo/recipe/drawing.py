"""Draws a scene as a picture: polygons at a multiple of the size, averaged down."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .scenes import COLOURS, RGB, Scene, pattern_tone

Point = tuple[float, float]


def outline(shape: str) -> list[Point]:
    """Corners of the shape's outer edge around (0, 0) at radius about 1, y pointing down."""
    match shape:
        case "circle" | "ring":
            return [(math.cos(a), math.sin(a)) for a in _turn(72)]
        case "square":
            return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
        case "triangle":
            return [(0.0, -1.0), (1.04, 0.8), (-1.04, 0.8)]
        case "star":
            return [
                ((1.1 if i % 2 == 0 else 0.45) * math.sin(i * math.pi / 5), -(1.1 if i % 2 == 0 else 0.45) * math.cos(i * math.pi / 5))
                for i in range(10)
            ]
        case "heart":
            return [
                (
                    16 * math.sin(t) ** 3 / 16.5,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5) / 15.5,
                )
                for t in _turn(72)
            ]
        case "cross":
            a, b = 0.34, 1.0
            return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    raise ValueError(f"no outline for shape {shape!r}")


RING_HOLE = 0.52
"""Radius of a ring's hole as a share of its radius."""


def _turn(n: int) -> list[float]:
    return [2 * math.pi * i / n for i in range(n)]


def draw(scene: Scene, width_px: int, height_px: int) -> Image.Image:
    """The scene as an RGB picture of that size."""
    factor = 4 if min(width_px, height_px) <= 128 else 2
    canvas = Image.new("RGB", (width_px * factor, height_px * factor), COLOURS[scene.background])
    pen = ImageDraw.Draw(canvas)
    side = min(canvas.size)
    _pattern(pen, scene, canvas.size, side / scene.cells)
    radius = scene.radius * side
    cx, cy = scene.centre[0] * canvas.width, scene.centre[1] * canvas.height
    ink = COLOURS[scene.colour]
    if scene.shape == "ring":
        # Drawn as a thick line so that the background, patterned or not, shows through the hole.
        pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), outline=ink, width=round(radius * (1 - RING_HOLE)))
    else:
        cos, sin = math.cos(scene.tilt_rad), math.sin(scene.tilt_rad)
        pen.polygon([(cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos)) for x, y in outline(scene.shape)], fill=ink)
    return canvas.reduce(factor)


def _pattern(pen: ImageDraw.ImageDraw, scene: Scene, size: Sequence[int], period: float) -> None:
    width, height = size
    tone: RGB = pattern_tone(COLOURS[scene.background])
    columns, rows = math.ceil(width / period), math.ceil(height / period)
    match scene.pattern:
        case "striped":
            for j in range(rows):
                pen.rectangle((0, j * period, width, (j + 0.5) * period), fill=tone)
        case "checkered":
            for j in range(rows):
                for i in range(columns):
                    if (i + j) % 2 == 0:
                        pen.rectangle((i * period, j * period, (i + 1) * period, (j + 1) * period), fill=tone)
        case "dotted":
            r = period * 0.28
            for j in range(rows):
                for i in range(columns):
                    x, y = (i + 0.5) * period, (j + 0.5) * period
                    pen.ellipse((x - r, y - r, x + r, y + r), fill=tone)
        case _:
            return
