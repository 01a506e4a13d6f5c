"""Films: what comes out, and how long one can be with each family of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image

from .families import FilmFamily
from .generation import MAX_VIDEO_SECONDS

_FRAMES_PER_S: Final[Mapping[FilmFamily, int]] = {"modelscope": 8, "animatediff": 8, "wan": 16}
"""What each was trained on; at another rate everything would move too fast or too slowly."""
_WAN_FRAMES_A_LATENT: Final = 4
"""Its autoencoder makes one latent of the first frame, and one of every four that follow."""


@dataclass(frozen=True)
class Film:
    """Pictures that follow one another."""

    frames: tuple[Image.Image, ...]
    """RGB, all of one size; at least one."""
    frames_per_s: int

    @property
    def samples(self) -> tuple[Image.Image, ...]:
        """Its first, middle and last frame, or as many as there are."""
        last = len(self.frames) - 1
        return tuple(self.frames[index] for index in sorted({0, last // 2, last}))


@dataclass(frozen=True)
class FilmLength:
    """How long a film becomes."""

    frames: int
    frames_per_s: int

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last."""
        return self.frames / self.frames_per_s


def film_length(family: FilmFamily, seconds: float) -> FilmLength:
    """What comes nearest to so many seconds among what models of the family can draw."""
    frames_per_s = _FRAMES_PER_S[family]
    frames = max(1, round(seconds * frames_per_s))
    if family == "wan":
        frames = round((frames - 1) / _WAN_FRAMES_A_LATENT) * _WAN_FRAMES_A_LATENT + 1
    return FilmLength(frames, frames_per_s)


def longest_s(family: FilmFamily, longest_frames: int | None) -> float:
    """Seconds of the longest film of a model that knows no more frames than that; None: any number of them."""
    most = MAX_VIDEO_SECONDS * _FRAMES_PER_S[family]
    return (most if longest_frames is None else min(longest_frames, most)) / _FRAMES_PER_S[family]
