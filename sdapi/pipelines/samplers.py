"""Samplers by name: a new diffusers scheduler object for every row, because they keep state."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor

from sdapi.domain.generation import SchedulerName


class Sampler:
    """One row's scheduler, its timesteps and the row's place among them.

    Wraps a diffusers scheduler so that noise of ancestral and SDE samplers comes from the row's own generator.
    """

    def __init__(self, config: Mapping[str, Any], name: SchedulerName | None, *, steps: int, strength: float | None) -> None:
        """`config` is the checkpoint's scheduler_config; `name` None keeps the class it names. `strength` None starts from pure noise.

        With a strength in 0..1 the sampler starts int(steps * strength) steps from the end, but makes at least one.
        """
        class_name = name.value if name is not None else str(config.get("_class_name", SchedulerName.PNDM.value))
        self.scheduler: Any = getattr(diffusers, class_name).from_config(dict(config))
        self.scheduler.set_timesteps(steps, device="cpu")
        order = int(self.scheduler.order)
        first = 0
        if strength is not None:
            first = max(steps - max(int(steps * strength), 1), 0)
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(first * order)
        self.timesteps: Tensor = self.scheduler.timesteps[first * order :]
        self.position = 0
        self._takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters

    @property
    def name(self) -> str:
        """The diffusers class that samples, the checkpoint's own where the request named none."""
        return type(self.scheduler).__name__

    @property
    def finished(self) -> bool:
        """Whether every timestep has been taken."""
        return self.position >= len(self.timesteps)

    @property
    def timestep(self) -> Tensor:
        """The current timestep, a scalar."""
        return self.timesteps[self.position]

    @property
    def initial_noise_sigma(self) -> float:
        """Standard deviation pure noise must have at the first timestep."""
        return float(self.scheduler.init_noise_sigma)

    def add_noise(self, latents: Tensor, noise: Tensor) -> Tensor:
        """`latents` noised to the first timestep."""
        noised: Tensor = self.scheduler.add_noise(latents, noise, self.timesteps[:1])
        return noised

    def model_input(self, latents: Tensor) -> Tensor:
        """`latents` scaled as the UNet expects them at the current timestep."""
        scaled: Tensor = self.scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def advance(self, predicted: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Latents after the current timestep; moves on to the next."""
        extra = {"generator": generator} if self._takes_generator else {}
        stepped: Tensor = self.scheduler.step(predicted, self.timestep, latents, return_dict=False, **extra)[0]
        self.position += 1
        return stepped
