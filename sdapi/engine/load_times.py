"""When a model will be in memory: from what loads took, and before any by what its files weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sdapi.domain.models_in_memory import ModelsInMemory

_IMPORTS_S: Final = 4.0
"""Importing torch and diffusers and opening the device: about what two CPU cores take."""
_BYTES_PER_S: Final = 500e6
"""Read, converted and moved to the device, until a load was measured."""
_FIXED_S: Final = 0.15
"""Of every load, however small the model."""
_OVERDUE_SHARE: Final = 0.2
"""Of what takes longer than expected, so much more of the time gone is expected to come."""


@dataclass(frozen=True)
class EngineState:
    """What an engine has in memory, as it was at one moment."""

    opened: bool = False
    """Whether the device is open and the libraries are imported."""
    opening_since_s: float | None = None
    """When opening began; None before that. Like all moments here by `time.monotonic`."""
    models: ModelsInMemory = field(default_factory=ModelsInMemory)


def ready_in_s(model_id: str, sizes: Mapping[str, int], state: EngineState, *, now_s: float) -> float:
    """Seconds until the model can be drawn with, if it were asked for now; 0 when it can.

    Loads come one after another, so the ones under way count too. `sizes` are bytes of weights, as far as they are known.
    """
    opening_s = 0.0 if state.opened else _remaining_s(_IMPORTS_S, state.opening_since_s, now_s)
    if model_id in state.models.resident:
        return opening_s
    before_s = 0.0
    for other, since_s in state.models.loading.items():
        # Queued loads have not begun: only the first has used the time since it was asked for.
        before_s += _remaining_s(_load_s(other, sizes, state.models), since_s if not before_s else None, now_s)
        if other == model_id:
            return opening_s + before_s
    return opening_s + before_s + _load_s(model_id, sizes, state.models)


def _load_s(model_id: str, sizes: Mapping[str, int], models: ModelsInMemory) -> float:
    if model_id in models.load_s:
        return models.load_s[model_id]
    return _FIXED_S + sizes.get(model_id, 0) / _bytes_per_s(sizes, models)


def _bytes_per_s(sizes: Mapping[str, int], models: ModelsInMemory) -> float:
    """As measured with the largest model so far: small ones tell more of what every load takes."""
    measured = [(sizes[model_id], seconds) for model_id, seconds in models.load_s.items() if sizes.get(model_id)]
    size, seconds = max(measured, default=(0, 0.0))
    return size / (seconds - _FIXED_S) if seconds > 2 * _FIXED_S else _BYTES_PER_S


def _remaining_s(expected_s: float, since_s: float | None, now_s: float) -> float:
    gone_s = 0.0 if since_s is None else now_s - since_s
    return max(expected_s - gone_s, _OVERDUE_SHARE * gone_s)
