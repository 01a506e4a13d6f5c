"""What a device was measured to take for joint forwards and decodes: learnt where pictures are drawn, used where waiting times are told."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_PIXELS_PER_LATENT: Final = 8
_NAME: Final = re.compile(r"(.*) (\d+)x(\d+) (?:(\d+) tokens|decode)( merging)?( panorama)?")


@dataclass(frozen=True)
class WorkSort:
    """What forwards have in common that differ in the number of samples only."""

    model: str
    width: int
    """In pixels; of a panorama that of its windows."""
    height: int
    tokens: int | None
    """Of the prompts. None: pictures are decoded."""
    merges_tokens: bool = False
    is_panorama: bool = False

    @property
    def name(self) -> str:
        """Different for each."""
        latents = f"{self.width // _PIXELS_PER_LATENT}x{self.height // _PIXELS_PER_LATENT}"
        kind = "decode" if self.tokens is None else f"{self.tokens} tokens"
        said = [self.model, latents, kind]
        return " ".join([*said, *(["merging"] if self.merges_tokens else []), *(["panorama"] if self.is_panorama else [])])

    @classmethod
    def named(cls, name: str) -> WorkSort | None:
        """The one that is called this; None where it is no such name."""
        if (found := _NAME.fullmatch(name)) is None:
            return None
        model, width, height, tokens, merging, panorama = found.groups()
        width_px, height_px = (int(latents) * _PIXELS_PER_LATENT for latents in (width, height))
        return cls(model, width_px, height_px, None if tokens is None else int(tokens), merging is not None, panorama is not None)


def seconds_between(measured: Sequence[int], seconds_of: Callable[[int], float], samples: int) -> float:
    """What a forward of so many samples takes, by those measured that are next to it. `measured` rises and isn't empty."""
    at = bisect_left(measured, samples)
    if at < len(measured) and measured[at] == samples:
        return seconds_of(samples)
    if at == 0:
        # No smaller one is known: it can't take longer.
        return seconds_of(measured[0])
    if at == len(measured):
        # Beyond what is known nothing is gained.
        return seconds_of(measured[-1]) * samples / measured[-1]
    below, above = measured[at - 1], measured[at]
    share = (samples - below) / (above - below)
    return seconds_of(below) * (1 - share) + seconds_of(above) * share


@dataclass(frozen=True)
class Measured:
    """Forwards, or decodes, of one name."""

    seconds: Mapping[int, float]
    """By the samples in it; at least one."""
    worth: int | None
    """How many samples are worth joining; None while it isn't known that more gain nothing."""

    def of(self, samples: int) -> float:
        """Seconds for so many; for more than were measured, as if nothing more were gained."""
        return seconds_between(sorted(self.seconds), self.seconds.__getitem__, samples)

    @property
    def largest(self) -> int:
        """The most samples that were measured."""
        return max(self.seconds)


@dataclass(frozen=True)
class DrawingSpeeds:
    """Of one device, at one moment."""

    by_sort: Mapping[WorkSort, Measured] = field(default_factory=dict)

    @classmethod
    def of_names(cls, by_name: Mapping[str, Measured]) -> DrawingSpeeds:
        """By what the sorts are called; other names are left out."""
        return cls({sort: measured for name, measured in by_name.items() if (sort := WorkSort.named(name)) is not None})
