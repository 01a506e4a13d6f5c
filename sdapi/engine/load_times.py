"""When a model will be in memory: from what loads and returns took, and before any by what its files weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sdapi.domain.models_in_memory import ModelsInMemory

_IMPORTS_S: Final = 4.5
"""Importing torch and diffusers and opening the device: about what two CPU cores take."""
_BYTES_PER_S: Final = 500e6
"""Read, converted and moved to the device, until a load was measured."""
_FIXED_S: Final = 0.15
"""Of every load, however small the model."""
_RETURN_BYTES_PER_S: Final = 8e9
"""From the host's memory to the device, until a return was measured."""
_FIXED_RETURN_S: Final = 0.05
"""Of every return."""
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
    if model_id in models.on_host:
        return _return_s(model_id, sizes, models)
    if model_id in models.load_s:
        return models.load_s[model_id]
    return _FIXED_S + sizes.get(model_id, 0) / _bytes_per_s(sizes, models)


def _return_s(model_id: str, sizes: Mapping[str, int], models: ModelsInMemory) -> float:
    """From the host's memory."""
    if model_id in models.return_s:
        return models.return_s[model_id]
    size, seconds = _largest(sizes, models.return_s)
    bytes_per_s = size / (seconds - _FIXED_RETURN_S) if seconds > 2 * _FIXED_RETURN_S else _RETURN_BYTES_PER_S
    return _FIXED_RETURN_S + sizes.get(model_id, 0) / bytes_per_s


def _bytes_per_s(sizes: Mapping[str, int], models: ModelsInMemory) -> float:
    size, seconds = _largest(sizes, models.load_s)
    return size / (seconds - _FIXED_S) if seconds > 2 * _FIXED_S else _BYTES_PER_S


def _largest(sizes: Mapping[str, int], took_s: Mapping[str, float]) -> tuple[int, float]:
    """Bytes and seconds of the largest model that was measured so far: small ones tell more of what every load takes."""
    return max(((sizes[model_id], seconds) for model_id, seconds in took_s.items() if sizes.get(model_id)), default=(0, 0.0))


def _remaining_s(expected_s: float, since_s: float | None, now_s: float) -> float:
    gone_s = 0.0 if since_s is None else now_s - since_s
    return max(expected_s - gone_s, _OVERDUE_SHARE * gone_s)
