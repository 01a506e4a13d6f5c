"""What a loop knows of its device's speed: it measures, learns, keeps what it has learnt, and tries out models nobody has drawn with."""

from __future__ import annotations

from collections.abc import Sequence

from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.profile_file import ProfileFile
from sdapi.pipelines.scheduling.stopwatch import Stopwatch, WallStopwatch
from sdapi.pipelines.scheduling.warm_up import WarmUp


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

    def can_warm_up(self, models: Sequence[Model]) -> bool:
        """Whether `warm_up` has something to do."""
        return self._warm_up is not None and self.profile is not None and self._warm_up.has_work(models)

    def warm_up(self, models: Sequence[Model]) -> None:
        """One forward that nobody asked for; to be called while nobody waits."""
        if self._warm_up is not None and self.profile is not None:
            self._warm_up.take_step(models, self.profile)

    def keep(self) -> None:
        """Now and then, write what was learnt; on another thread."""
        if self._file is not None and self.profile is not None:
            self._file.keep(self.profile)

    def close(self) -> None:
        """Write what was learnt."""
        self.stopwatch.collect()
        if self._file is not None and self.profile is not None:
            self._file.close(self.profile)
