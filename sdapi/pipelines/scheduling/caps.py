"""How many rows share a forward or a decode: what the device was found to gain from, or what is usual where nothing is known of it."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass

from sdapi.domain.drawing_speeds import WorkSort
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.room import Room
from sdapi.pipelines.scheduling.row import BatchKey
from sdapi.pipelines.scheduling.turns import Most

_LATENT_PIXELS = 8
"""Along each side."""
_CELL_PIXELS = _LATENT_PIXELS**2
"""Of picture, in each of the latents."""
_DECODE_FORWARDS = 3
"""What decoding costs in forwards of a Stable Diffusion UNet (SD 1.5: 2.5 TFLOP against 0.8)."""
_DECODED_SHARE = 4
"""So much less of picture is decoded at once than drawn: a decoder's layers are as wide as the pictures."""
_BEYOND_USUAL = 2
"""How many times the usual pixels may be tried in one forward where the device goes on gaining."""
_QUANTUM_PIXELS = 64 * 512 * 512
"""About half of a usual picture: see `turns`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is done at once with rows that may share it."""

    key: BatchKey
    is_joint: bool = False
    """Whether rows of the key share forwards at all."""
    ending: Hashable = None
    """Of rows that are decoded: those with equal ones may be together. None: they take a step."""

    @property
    def pixels(self) -> int:
        """Of one row."""
        return self.key.latent_height * self.key.latent_width * _CELL_PIXELS

    @property
    def work(self) -> int:
        """Of one sample, in pixels that go through a UNet."""
        return self.pixels if self.ending is None else self.pixels * _DECODE_FORWARDS

    @property
    def shape(self) -> str:
        """What it is called in a profile."""
        key = self.key
        width, height = (latents * _LATENT_PIXELS for latents in (key.latent_width, key.latent_height))
        tokens = key.context_tokens if self.ending is None else None
        return WorkSort(key.model, width, height, tokens, key.merges_tokens, key.is_panorama).name


class Caps:
    """See Costs. For one thread."""

    def __init__(self, profile: StepProfile | None, *, max_pixels: int, max_rows: int) -> None:
        """None: nothing is learnt, and `max_pixels` of picture is the limit. Never more than `max_rows` rows; one always fits."""
        self._profile = profile
        self._max_pixels = max_pixels
        self._max_rows = max_rows
        self._room = Room()
        self._latest_s: tuple[Batch, float] | None = None
        """Of a batch that is its own kind."""

    @property
    def quantum(self) -> float:
        """See Costs."""
        return self._in_seconds(_QUANTUM_PIXELS)

    def most(self, batch: Batch, *, samples_each: int) -> Most:
        """See Costs."""
        share = 1 if batch.ending is None else _DECODED_SHARE
        usual = max(1, min(self._max_rows, self._max_pixels // share // batch.pixels))
        rows, samples = usual, sys.maxsize
        if self._profile is not None and batch.is_joint:
            rows = min(self._max_rows, usual * _BEYOND_USUAL) if batch.ending is None else usual
            samples = self._profile.worth(batch.shape, least=samples_each, start=usual * samples_each, limit=rows * samples_each)
        return Most(rows, self._room.most(batch.shape, wanted=samples, least=samples_each))

    def has_room(self, batch: Batch, samples: int) -> bool:
        """False where so many are known to run out of memory."""
        return not self._room.is_short_of(batch.shape, samples)

    def ran_out(self, batch: Batch, samples: int) -> None:
        """The device had no memory for so many at once: turns take fewer for a while."""
        self._room.ran_out(batch.shape, samples)

    def fitted(self, batch: Batch, samples: int) -> None:
        """It had."""
        self._room.fitted(batch.shape, samples)

    def memory_was_freed(self) -> None:
        """What had no memory may have some now."""
        self._room.memory_was_freed()

    def seconds(self, batch: Batch, samples: int) -> float | None:
        """See Costs."""
        return None if self._profile is None or not batch.is_joint else self._profile.seconds(batch.shape, samples)

    def learn(self, batch: Batch, samples: int, seconds: float) -> None:
        """So long it took."""
        if self._profile is None:
            return
        if batch.is_joint:
            self._profile.learn(batch.shape, samples, seconds, units=samples * batch.work)
        else:
            self._latest_s = batch, seconds

    def cost(self, batch: Batch, samples: int) -> float:
        """What a turn that has just been taken is charged: seconds where these are learnt, else pixels times forwards."""
        latest, self._latest_s = self._latest_s, None
        if self._profile is not None and batch.is_joint:
            return self._profile.cost_s(batch.shape, samples, units=samples * batch.work)
        if latest is not None and latest[0] == batch:
            return latest[1]
        return self._in_seconds(samples * batch.work)

    def _in_seconds(self, work: float) -> float:
        return work if self._profile is None else self._profile.cost_s("", 1, units=work)
