"""Samplers by name: a new diffusers scheduler object for every row, because they keep state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor

from sdapi.domain.generation import SchedulerName

_OTHER_SPACINGS = ("use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "use_lu_lambdas")


class Sampler:
    """One row's scheduler, its timesteps and the row's place among them.

    Wraps a diffusers scheduler so that noise of ancestral and SDE samplers comes from the row's own generator.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        name: SchedulerName | None,
        *,
        steps: int,
        strength: float | None,
        use_karras_sigmas: bool | None = None,
    ) -> None:
        """`config` is the checkpoint's scheduler_config; `name` None keeps the class it names. `strength` None starts from pure noise.

        With a strength in 0..1 the sampler starts int(steps * strength) steps from the end, but makes at least one.
        `use_karras_sigmas` means nothing to samplers that know no such sigmas; None keeps what the checkpoint says.
        """
        class_name = name.value if name is not None else str(config.get("_class_name", SchedulerName.PNDM.value))
        scheduler_class = getattr(diffusers, class_name)
        self.scheduler: Any = scheduler_class.from_config(_spaced(config, scheduler_class, use_karras_sigmas=use_karras_sigmas))
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

    def denoised(self, predicted: Tensor, latents: Tensor) -> Tensor:
        """The clean latents that `predicted`, made at the current timestep, points to. To look at: the sampler doesn't move by it."""
        # Every scheduler scales the model's input to the variance-preserving form, whichever form it keeps its latents in.
        noisy = self.model_input(latents)
        signal = self._kept_signal()
        keep, noise = math.sqrt(signal), math.sqrt(1 - signal)
        kind = str(self.scheduler.config.prediction_type)
        if kind == "sample":
            return predicted
        return keep * noisy - noise * predicted if kind == "v_prediction" else (noisy - noise * predicted) / keep

    def _kept_signal(self) -> float:
        """The cumulated alpha at the current timestep; those of Karras sigmas may lie between two that were trained."""
        alphas = self.scheduler.alphas_cumprod
        at = min(max(float(self.timestep), 0.0), len(alphas) - 1.0)
        below, share = int(at), at - int(at)
        above = min(below + 1, len(alphas) - 1)
        return float(alphas[below]) * (1 - share) + float(alphas[above]) * share

    def advance(self, predicted: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Latents after the current timestep; moves on to the next."""
        extra = {"generator": generator} if self._takes_generator else {}
        stepped: Tensor = self.scheduler.step(predicted, self.timestep, latents, return_dict=False, **extra)[0]
        self.position += 1
        return stepped


def _spaced(config: Mapping[str, Any], scheduler_class: Any, *, use_karras_sigmas: bool | None) -> dict[str, Any]:
    known = inspect.signature(scheduler_class.__init__).parameters
    if use_karras_sigmas is None or "use_karras_sigmas" not in known:
        return dict(config)
    # Schedulers refuse two ways of spacing at once, and the request's goes before the checkpoint's.
    others = {name: False for name in _OTHER_SPACINGS if use_karras_sigmas and config.get(name)}
    return {**config, **others, "use_karras_sigmas": use_karras_sigmas}
