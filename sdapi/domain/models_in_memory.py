"""Which models could be drawn with at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_UPSCALER: Final = "upscaler/"
_FILMS: Final = "video/"


@dataclass(frozen=True)
class ModelsInMemory:
    """A look at an engine's models, as it was at one moment."""

    resident: frozenset[str] = frozenset()
    loading: Mapping[str, float] = field(default_factory=dict)
    """Models on their way, in the order they were asked for, and when (`time.monotonic`)."""
    load_s: Mapping[str, float] = field(default_factory=dict)
    """How long loading each took, when it was loaded last."""
    resident_bytes: int = 0
    """What the resident ones take."""
    quantized: frozenset[str] = frozenset()
    """The resident ones whose weights are in eight bits."""
    on_host: frozenset[str] = frozenset()
    """Models that have left the device and wait in the host's memory, from which they come back sooner than from disk."""
    host_bytes: int = 0
    """What those take there."""
    return_s: Mapping[str, float] = field(default_factory=dict)
    """How long coming back took each, when it came back last."""

    def with_upscalers(self, upscalers: ModelsInMemory) -> ModelsInMemory:
        """These and those, which may be called as checkpoints are and so are told by `upscaler_entry`."""
        return ModelsInMemory(
            resident=self.resident | {upscaler_entry(one) for one in upscalers.resident},
            loading={**self.loading, **{upscaler_entry(one): since for one, since in upscalers.loading.items()}},
            load_s={**self.load_s, **{upscaler_entry(one): seconds for one, seconds in upscalers.load_s.items()}},
            resident_bytes=self.resident_bytes + upscalers.resident_bytes,
            quantized=self.quantized,
            on_host=self.on_host | {upscaler_entry(one) for one in upscalers.on_host},
            host_bytes=self.host_bytes + upscalers.host_bytes,
            return_s={**self.return_s, **{upscaler_entry(one): seconds for one, seconds in upscalers.return_s.items()}},
        )


def upscaler_entry(name: str) -> str:
    """What an upscaler is called among checkpoints; no id has a slash."""
    return f"{_UPSCALER}{name}"


def upscaler_id(entry: str) -> str | None:
    """The upscaler an entry tells of; None for a checkpoint's."""
    return entry.removeprefix(_UPSCALER) if entry.startswith(_UPSCALER) else None


def film_entry(name: str, motion_adapter: str | None = None) -> str:
    """What a model for films is called among checkpoints, or a checkpoint that a motion adapter moves."""
    return f"{_FILMS}{name}" if motion_adapter is None else f"{_FILMS}{motion_adapter}/{name}"


def film_ids(entry: str) -> tuple[str, str | None] | None:
    """The model for films an entry tells of, or the checkpoint and its motion adapter; None for others."""
    if not entry.startswith(_FILMS):
        return None
    adapter, _, name = entry.removeprefix(_FILMS).rpartition("/")
    return name, adapter or None
