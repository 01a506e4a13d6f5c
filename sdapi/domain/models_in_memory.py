"""Which models could be drawn with at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelsInMemory:
    """A look at an engine's models, as it was at one moment."""

    resident: frozenset[str] = frozenset()
    loading: Mapping[str, float] = field(default_factory=dict)
    """Models on their way, in the order they were asked for, and when (`time.monotonic`)."""
    load_s: Mapping[str, float] = field(default_factory=dict)
    """How long loading each took, when it was loaded last."""
