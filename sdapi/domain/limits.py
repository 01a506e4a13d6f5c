"""How much one API key may ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

LARGEST_LIMIT = 10**9
"""What fits every database's integer, and counts beyond it too."""


@dataclass(frozen=True)
class KeyLimits:
    """What holds for a key; 0 is no limit."""

    max_queued_jobs: int = 0
    requests_per_minute: int = 0
    daily_pictures: int = 0


@dataclass(frozen=True)
class OwnLimits:
    """What was set for one key: None leaves it to the server's default, 0 is no limit. Raises ValueError outside 0 to LARGEST_LIMIT."""

    max_queued_jobs: int | None = None
    requests_per_minute: int | None = None
    daily_pictures: int | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and not 0 <= limit <= LARGEST_LIMIT:
                raise ValueError(f"{name} must be between 0 and {LARGEST_LIMIT}, not {limit}")

    def over(self, defaults: KeyLimits) -> KeyLimits:
        """What holds for the key on a server with these defaults."""
        return KeyLimits(
            max_queued_jobs=defaults.max_queued_jobs if self.max_queued_jobs is None else self.max_queued_jobs,
            requests_per_minute=defaults.requests_per_minute if self.requests_per_minute is None else self.requests_per_minute,
            daily_pictures=defaults.daily_pictures if self.daily_pictures is None else self.daily_pictures,
        )
