"""What a loop knows of its device's speed: it measures, learns, keeps what it has learnt, and tries out models nobody has drawn with."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sdapi.domain.drawing_speeds import DrawingSpeeds
from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.profile_file import ProfileFile
from sdapi.pipelines.scheduling.stopwatch import Stopwatch, WallStopwatch
from sdapi.pipelines.scheduling.warm_up import WarmUp

_TELLS_EVERY_S = 0.5


class Pacing:
    """For the thread that draws."""

    def __init__(
        self,
        profile: StepProfile | None = None,
        file: ProfileFile | None = None,
        stopwatch: Stopwatch | None = None,
        warm_up: WarmUp | None = None,
    ) -> None:
        """Without a profile nothing is learnt, without a file nothing kept; without a warm-up no model is tried before its first job."""
        self.profile = profile
        self.stopwatch: Stopwatch = stopwatch if stopwatch is not None else WallStopwatch()
        self._file = file
        self._warm_up = warm_up
        self._speeds = DrawingSpeeds() if profile is None else profile.speeds
        self._told = 0 if profile is None else profile.learnt
        self._told_at_s = time.monotonic()

    @property
    def speeds(self) -> DrawingSpeeds:
        """What was measured, as it was a moment ago; any thread may look."""
        return self._speeds

    def can_warm_up(self, models: Sequence[Model]) -> bool:
        """Whether `warm_up` has something to do."""
        return self._warm_up is not None and self.profile is not None and self._warm_up.has_work(models)

    def warm_up(self, models: Sequence[Model]) -> None:
        """One forward that nobody asked for; to be called while nobody waits."""
        if self._warm_up is not None and self.profile is not None:
            self._warm_up.take_step(models, self.profile)

    def keep(self) -> None:
        """Now and then, tell others what was learnt, and write it on another thread."""
        self._tell()
        if self._file is not None and self.profile is not None:
            self._file.keep(self.profile)

    def close(self) -> None:
        """Write what was learnt."""
        self.stopwatch.collect()
        if self._file is not None and self.profile is not None:
            self._file.close(self.profile)

    def _tell(self) -> None:
        if self.profile is None or self.profile.learnt == self._told or time.monotonic() - self._told_at_s < _TELLS_EVERY_S:
            return
        self._speeds, self._told, self._told_at_s = self.profile.speeds, self.profile.learnt, time.monotonic()
