"""Plans of samplers by scheduler config, made when first asked for: rows that go the same way share one."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from sdapi.domain.generation import AlgorithmType, SchedulerName
from sdapi.pipelines.samplers.plan_probing import planned
from sdapi.pipelines.samplers.planned_samplers import AnySampler, PlannedSampler
from sdapi.pipelines.samplers.sampler import Sampler, steps_skipped
from sdapi.pipelines.samplers.sampler_plans import Plan

_CONFIGS = 32
_REMEMBERED = 64
"""One of 150 steps takes about 30 kB: too little to be worth clearing."""


class Plans:
    """Of one scheduler config; the least recently used is forgotten. For use from one thread only."""

    def __init__(self, config: Mapping[str, Any], *, capacity: int = _REMEMBERED) -> None:
        """`config` is the checkpoint's scheduler_config."""
        self._config = config
        self._capacity = capacity
        self._plans: OrderedDict[tuple[object, ...], Plan | None] = OrderedDict()
        """None where it is known that no plan can be made."""

    def __len__(self) -> int:
        return len(self._plans)

    def sampler(
        self,
        name: SchedulerName | None,
        *,
        steps: int,
        strength: float | None,
        use_karras_sigmas: bool | None = None,
        algorithm_type: AlgorithmType | None = None,
    ) -> AnySampler:
        """One row's own, before its first step: by a plan, or where there can be none with a scheduler object. Asked for as Sampler is."""

        def own() -> Sampler:
            return Sampler(
                self._config,
                name,
                steps=steps,
                strength=strength,
                use_karras_sigmas=use_karras_sigmas,
                algorithm_type=algorithm_type,
            )

        # Strengths that start at the same step are one to a scheduler, but not to have any.
        key = (name, steps, strength is None, steps_skipped(steps, strength), use_karras_sigmas, algorithm_type)
        if key not in self._plans:
            self._plans[key] = planned(own())
            if len(self._plans) > self._capacity:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        plan = self._plans[key]
        return own() if plan is None else PlannedSampler(plan)


class PlanShelf:
    """Those of all models of a device: most have the same few scheduler configs, and a model that comes back finds its plans again.

    `of` is for the thread that loads.
    """

    def __init__(self) -> None:
        self._plans: OrderedDict[str, Plans] = OrderedDict()

    def of(self, config: Mapping[str, Any]) -> Plans:
        """For this scheduler_config."""
        name = json.dumps(config, sort_keys=True, default=repr)
        if name not in self._plans:
            self._plans[name] = Plans(config)
            if len(self._plans) > _CONFIGS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(name)
        return self._plans[name]
