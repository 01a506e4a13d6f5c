"""The grammar of captions: how a scene is put into words, and the words themselves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from .scenes import PATTERNS, POSITIONS, SIZES, Scene

COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "red", "red", "crimson", "scarlet"),
    "green": ("green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "navy"),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "orange": ("orange", "orange", "orange", "tangerine"),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "rose"),
    "cyan": ("cyan", "cyan", "cyan", "turquoise"),
    "white": ("white", "white", "white", "snowy"),
    "black": ("black", "black", "black", "jet-black"),
}
SHAPE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "circle", "disc", "ball"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle", "triangle", "triangle", "pyramid"),
    "star": ("star", "star", "star", "starfish"),
    "heart": ("heart", "heart", "heart", "valentine"),
    "ring": ("ring", "ring", "ring", "donut"),
    "cross": ("cross", "cross", "cross", "plus"),
}
SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge"),
    "medium": ("medium",),
}
POSITION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "near the top", "on top"),
    "bottom": ("at the bottom", "near the bottom"),
    "centre": ("in the center", "in the middle", "in the centre"),
}
PATTERN_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "checkered": ("checkered", "checked"),
    "dotted": ("dotted", "polka-dot"),
}
FILLERS: Final = (
    "best quality", "masterpiece", "photorealistic", "high resolution", "detailed", "4k", "8k", "sharp focus", "dramatic lighting",
    "a cat", "a dog", "1girl", "light smile", "house", "landscape", "portrait", "low details", "watermark", "bad quality", "hands",
    "shirt with collars", "waist up", "from below", "blurry", "ugly", "deformed", "cinematic", "studio light", "trending",
)  # fmt: skip
"""Words users of Stable Diffusion send that mean nothing here: the model learns to look past them."""


def caption(scene: Scene, rng: random.Random, *, fillers: bool = True) -> str:
    """One way of saying what `scene` shows.

    Size, position and pattern are always named when they are out of the ordinary, sometimes when they are not.
    """
    shape = rng.choice(SHAPE_WORDS[scene.shape])
    ink = rng.choice(COLOUR_WORDS[scene.colour])
    ground = rng.choice(COLOUR_WORDS[scene.background])
    size = f"{rng.choice(SIZE_WORDS[scene.size])} " if scene.size != "medium" or rng.random() < 0.1 else ""
    where = f" {rng.choice(POSITION_WORDS[scene.position])}" if scene.position != "centre" or rng.random() < 0.15 else ""
    pattern = f"{rng.choice(PATTERN_WORDS[scene.pattern])} " if scene.pattern != "plain" or rng.random() < 0.15 else ""
    thing, field = f"{size}{ink} {shape}", f"{pattern}{ground} background"
    article = rng.choice(("a ", "a ", "the ", ""))
    text = rng.choice(
        (
            f"{article}{thing}{where} on a {field}",
            f"{article}{thing}{where} on a {field}",
            f"{article}{thing}{where} on {field}",
            f"{article}{thing}{where}, {field}",
            f"{field}, {article}{thing}{where}",
            f"{article}{thing}{where} in front of a {field}",
            f"a picture of {article}{thing}{where} on a {field}",
            f"{article}{thing}{where} over {pattern}{ground}",
        )
    )
    if fillers and rng.random() < 0.15:
        extra = ", ".join(rng.sample(FILLERS, rng.randint(1, 3)))
        text = f"{extra}, {text}" if rng.random() < 0.4 else f"{text}, {extra}"
    return text


def nothing(rng: random.Random) -> str:
    """A text that asks for no scene at all: empty, or words that mean nothing here.

    What training pairs with any picture, so that guidance and unknown words behave.
    """
    if rng.random() < 0.55:
        return ""
    if rng.random() < 0.7:
        return ", ".join(rng.sample(FILLERS, rng.randint(1, 7)))
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(rng.randint(1, 8)))


def vocabulary() -> list[str]:
    """Every word the grammar can say, sorted."""
    texts: list[str] = [*FILLERS, "a the on in at near over of front picture background , :"]
    groups: Sequence[dict[str, tuple[str, ...]]] = (COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, POSITION_WORDS, PATTERN_WORDS)
    for group in groups:
        for words in group.values():
            texts.extend(words)
    found = {word for text in texts for word in text.replace(",", " ").replace("-", " ").replace(":", " ").split()}
    return sorted(found)


LABELS: Final = {
    "shape": tuple(sorted(SHAPE_WORDS)),
    "colour": tuple(sorted(COLOUR_WORDS)),
    "background": tuple(sorted(COLOUR_WORDS)),
    "pattern": PATTERNS,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
}
"""The questions the text encoder's first training asks of a caption, with their answers."""
