"""Finds a sampler's plan by asking its scheduler: each step is taken with tensors that say in their elements what they are made of.

A probe's first elements are coordinates. Latents, prediction, noise and everything the scheduler remembers each get a 1 in one of
their own before a step; what comes out then tells its shares by itself. The probe's other elements are plain numbers that go the whole
way as a picture's would. A step by the numbers found must give the same for them, or the scheduler isn't linear (it clips, say, or
keeps something where it isn't seen), and there is no plan: nobody need know which schedulers that are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sdapi.pipelines.samplers.sampler import Sampler
from sdapi.pipelines.samplers.sampler_plans import PREDICTION_AND_NOISE, Plan

_log = logging.getLogger(__name__)

_COORDINATES = 16
"""More than any scheduler takes and remembers together: UniPC of the highest order has eight."""
_SCALES = (1.0, 1.0, 1.0, 1.0, 1e3, 1e3, 1e3, 1e3)
"""Of the elements that go the whole way: the large ones reach whatever a scheduler clips at."""
_WIDTH = _COORDINATES + len(_SCALES)
_SHAPE = (1, 1, 1, _WIDTH)
_CLOSENESS = 1e-5
"""Of the sum of what is added up: some schedulers compute in float32 whatever they are given, which rounds to 6e-8."""
_LATENTS, _PREDICTION, _NOISE = 0, 1, 2
_FIRST_REMEMBERED = 3

_Numbers = NDArray[np.float64]
_Place = tuple[str, int | None]
"""An attribute of the scheduler, and where in it when it is a list."""


class _NotLinear(Exception):
    """The scheduler does what no plan can say."""


def planned(sampler: Sampler) -> Plan | None:
    """The plan of a sampler that has not stepped yet, which is used up by it; None where a plan can't say what it does.

    Takes two to four tenths of a millisecond a step; LMS, which integrates at every step, two milliseconds.
    """
    try:
        return _Probing(sampler).plan()
    except _NotLinear as reason:
        _log.info("a sampler steps its rows one by one", extra={"sampler": sampler.name, "reason": str(reason)})
    except Exception:  # noqa: BLE001 - whatever a scheduler makes of a probe, its own object can still draw
        _log.warning("a sampler could not be probed", extra={"sampler": sampler.name}, exc_info=True)
    return None


class _Probing:
    """One sampler on its way."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._scheduler = sampler.scheduler
        self._random = np.random.default_rng(0)
        self._generator = torch.Generator("cpu")

    def plan(self) -> Plan:
        """See `planned`. Raises _NotLinear, and what the scheduler raises."""
        sampler, initial_noise_sigma = self._sampler, self._sampler.initial_noise_sigma
        # These take the same at each step, so that all can be checked at once.
        clean, noise = self._probe(0), self._probe(1)
        mixed, scaled = np.empty((2, len(sampler.timesteps), _WIDTH))
        signals: list[float] = []
        draws: list[bool] = []
        steps: list[_Numbers] = []
        places: list[_Place] = []
        latents = _marked(self._probe(_LATENTS) * initial_noise_sigma, _LATENTS)
        while not sampler.finished:
            # In the order in which a row does it: some schedulers look up where they are at the first of these.
            mixed[sampler.position] = _read(sampler.add_noise(_tensor(clean), _tensor(noise)))
            scaled[sampler.position] = _read(sampler.model_input(_tensor(clean)))
            signals.append(sampler.kept_signal)
            latents, step, places, is_drawing = self._step(latents, places)
            steps.append(step)
            draws.append(is_drawing)
        _check(mixed, mixed[:, :2], np.stack([clean, noise]))
        _check(scaled, scaled[:, :1], clean[None])
        return Plan(
            name=sampler.name,
            timesteps=sampler.timesteps,
            initial_noise_sigma=initial_noise_sigma,
            prediction_type=sampler.prediction_type,
            input_scales=tuple(scaled[:, 0].tolist()),
            noisings=tuple((signal, noise) for signal, noise in mixed[:, :2].tolist()),
            kept_signals=tuple(signals),
            table=torch.from_numpy(_table(steps)).float(),
            draws=tuple(draws),
        )

    def _step(self, latents: _Numbers, places: Sequence[_Place]) -> tuple[_Numbers, _Numbers, list[_Place], bool]:
        """Latents ready for the next step; (1 + remembered, 3 + remembered before); where what is remembered is; whether it drew."""
        if _FIRST_REMEMBERED + len(places) > _COORDINATES:
            raise _NotLinear("it remembers too much")
        prediction, noise = self._probe(_PREDICTION), self._probe(_NOISE)
        taken = [latents, prediction, noise]
        for coordinate, place in enumerate(places, start=_FIRST_REMEMBERED):
            taken.append(_marked(_read(_at(self._scheduler, place)), coordinate))
            _put(self._scheduler, place, _tensor(taken[-1]))
        # Through a mode every operation takes longer: LMS, which adds up integrals number by number, takes twice as long.
        with _OwnNoise(self._generator, noise) if self._sampler.takes_generator else nullcontext() as drawn:
            stepped = _read(self._sampler.advance(_tensor(prediction), _tensor(latents), self._generator))
        kept = _places(self._scheduler)
        given = np.stack([stepped, *(_read(_at(self._scheduler, place)) for place in kept)])
        step = given[:, : len(taken)]
        _check(given, step, np.stack(taken))
        return _marked(stepped, _LATENTS), step, kept, drawn is not None and drawn.count > 0

    def _probe(self, coordinate: int) -> _Numbers:
        return _marked(np.concatenate([np.zeros(_COORDINATES), self._random.standard_normal(len(_SCALES)) * _SCALES]), coordinate)


class _OwnNoise(TorchFunctionMode):
    """Hands out `noise` where the scheduler draws from `generator`, on this thread only; it may do so once a step."""

    def __init__(self, generator: torch.Generator, noise: _Numbers) -> None:
        super().__init__()
        self._generator = generator
        self._noise = noise
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See TorchFunctionMode."""
        named = kwargs or {}
        if func is not torch.randn:
            return func(*args, **named)
        self.count += 1
        if named.get("generator") is not self._generator:
            raise _NotLinear("it draws noise that isn't the row's own")
        if self.count > 1:
            raise _NotLinear("it draws more than once a step")
        return _tensor(self._noise)


def _table(steps: Sequence[_Numbers]) -> _Numbers:
    """See Plan. Of what is remembered, only what a later step's latents depend on has a slot."""
    narrow: list[tuple[_Numbers, _Numbers]] = []
    wanted = [0]
    for step in reversed(steps):
        rows = step[wanted]
        asked = [number for number in range(_FIRST_REMEMBERED, step.shape[1]) if rows[:, number].any()]
        narrow.append((rows[:, [_LATENTS, *asked]], rows[:, [_PREDICTION, _NOISE]]))
        wanted = [0, *(number - _FIRST_REMEMBERED + 1 for number in asked)]
    slots = max(max(state.shape) for state, _ in narrow)
    table = np.zeros((len(steps), slots, slots + PREDICTION_AND_NOISE))
    for whole, (state, added) in zip(table, reversed(narrow), strict=True):
        whole[: state.shape[0], : state.shape[1]] = state
        whole[: added.shape[0], slots:] = added
    return table


def _marked(elements: _Numbers, coordinate: int) -> _Numbers:
    """A probe as a fresh one: what it is made of no longer matters, where it has come to does."""
    marked = np.zeros(_WIDTH)
    marked[coordinate] = 1.0
    marked[_COORDINATES:] = elements[_COORDINATES:]
    return marked


def _tensor(elements: _Numbers) -> Tensor:
    # A copy, here and back: what a scheduler adds up in place would change under us.
    return torch.tensor(elements).view(_SHAPE)


def _read(tensor: Tensor) -> _Numbers:
    read: _Numbers = tensor.to(torch.float64, copy=True).view(_WIDTH).numpy()
    return read


def _check(given: _Numbers, shares: _Numbers, taken: _Numbers) -> None:
    """Whether the whole-way elements of `given` (n, width) or (width,) are the sum of those `taken` (m, width) times `shares` (n, m)."""
    numbers = taken[:, _COORDINATES:]
    expected, size = shares @ numbers, np.abs(shares) @ np.abs(numbers)
    if not (np.abs(given[..., _COORDINATES:] - expected) <= _CLOSENESS * size).all():
        raise _NotLinear("a step is not the sum of what goes into it")


def _places(scheduler: Any) -> list[_Place]:
    """Where the scheduler keeps tensors of the probe's shape."""
    found: list[_Place] = []
    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor) and value.shape == _SHAPE:
            found.append((name, None))
        elif isinstance(value, list):
            found.extend((name, index) for index, item in enumerate(value) if isinstance(item, Tensor) and item.shape == _SHAPE)
    return found


def _at(scheduler: Any, place: _Place) -> Tensor:
    name, index = place
    value = getattr(scheduler, name)
    found: Tensor = value if index is None else value[index]
    return found


def _put(scheduler: Any, place: _Place, probe: Tensor) -> None:
    name, index = place
    if index is None:
        setattr(scheduler, name, probe)
    else:
        getattr(scheduler, name)[index] = probe
