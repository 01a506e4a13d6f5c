"""Samplers by name: diffusers' scheduler objects, each for one row or for the making of one plan (`plan_probing.py`): they keep state.

Most names are classes of diffusers and are that class. Five are drawn by another, because theirs needs a loop of its own, knows no
way from noise to picture, or needs another library:

| asked | drawn by | because |
|---|---|---|
| `KarrasVeScheduler` | KDPM2 ancestral on Karras sigmas | churns before a step and corrects after it; this is as stochastic, of 2nd order |
| `ScoreSdeVeScheduler` | Euler ancestral | has no `step`; ancestral noise is that of the reverse variance-exploding equation |
| `DDIMInverseScheduler` | DDIM | its timesteps lead from a picture to noise |
| `IPNDMScheduler` | LMS of order 4 | its timesteps are not a UNet's; this is a linear multistep over four predictions too |
| `DPMSolverSDEScheduler` | DPM-Solver++ singlestep of order 2, SDE | its Brownian tree (torchsde) is not the row's own generator |
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

from sdapi.domain.generation import AlgorithmType, SchedulerName

_OTHER_SPACINGS = ("use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "use_lu_lambdas")


@dataclass(frozen=True)
class _StandIn:
    """What draws under a name that can't itself."""

    class_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Go before whatever the checkpoint and the request say."""


_STAND_INS = {
    SchedulerName.KARRAS_VE.value: _StandIn("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
    SchedulerName.SCORE_SDE_VE.value: _StandIn("EulerAncestralDiscreteScheduler"),
    SchedulerName.DDIM_INVERSE.value: _StandIn("DDIMScheduler"),
    SchedulerName.IPNDM.value: _StandIn("LMSDiscreteScheduler"),
    SchedulerName.DPM_SDE.value: _StandIn("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
}


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
        algorithm_type: AlgorithmType | None = None,
    ) -> None:
        """`config` is the checkpoint's scheduler_config; `name` None keeps the class it names. `strength` None starts from pure noise.

        With a strength in 0..1 the sampler starts int(steps * strength) steps from the end, but makes at least one.
        `use_karras_sigmas` means nothing to samplers that know no such sigmas, `algorithm_type` to all but DPM solvers; None keeps what
        the checkpoint says.
        """
        self.name = name.value if name is not None else str(config.get("_class_name", SchedulerName.PNDM.value))
        """As it was asked for, by the checkpoint where the request named none; the scheduler's class may be a stand-in."""
        stand_in = _STAND_INS.get(self.name, _StandIn(self.name))
        scheduler_class = getattr(diffusers, stand_in.class_name)
        asked = {"use_karras_sigmas": use_karras_sigmas, "algorithm_type": algorithm_type}
        wanted = {setting: value for setting, value in asked.items() if value is not None} | dict(stand_in.settings)
        self.scheduler: Any = scheduler_class.from_config(_settings(config, scheduler_class, wanted, steps=steps))
        self.scheduler.set_timesteps(steps, device="cpu")
        order = int(self.scheduler.order)
        first = steps_skipped(steps, strength)
        if strength is not None and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first * order)
        self.timesteps: Tensor = self.scheduler.timesteps[first * order :]
        self.position = 0
        self.takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        """Whether a step may draw noise."""

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
        """`latents` noised to the current timestep."""
        noised: Tensor = self.scheduler.add_noise(latents, noise, self.timesteps[self.position : self.position + 1])
        return noised

    def model_input(self, latents: Tensor) -> Tensor:
        """`latents` scaled as the UNet expects them at the current timestep."""
        scaled: Tensor = self.scheduler.scale_model_input(latents, self.timestep)
        return scaled

    @property
    def prediction_type(self) -> str:
        """What the UNet's predictions are to this sampler: `epsilon`, `v_prediction` or `sample`."""
        return str(self.scheduler.config.prediction_type)

    @property
    def kept_signal(self) -> float:
        """The cumulated alpha at the current timestep; those of Karras sigmas may lie between two that were trained."""
        alphas = self.scheduler.alphas_cumprod
        at = min(max(float(self.timestep), 0.0), len(alphas) - 1.0)
        below, share = int(at), at - int(at)
        above = min(below + 1, len(alphas) - 1)
        return float(alphas[below]) * (1 - share) + float(alphas[above]) * share

    def denoised(self, predicted: Tensor, latents: Tensor) -> Tensor:
        """The clean latents that `predicted`, made at the current timestep, points to. To look at: the sampler doesn't move by it."""
        # Every scheduler scales the model's input to the variance-preserving form, whichever form it keeps its latents in.
        return clean_latents(predicted, self.model_input(latents), self.prediction_type, self.kept_signal)

    def advance(self, predicted: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Latents after the current timestep; moves on to the next."""
        extra = {"generator": generator} if self.takes_generator else {}
        stepped: Tensor = self.scheduler.step(predicted, self.timestep, latents, return_dict=False, **extra)[0]
        self.position += 1
        return stepped


def clean_latents(predicted: Tensor, noisy: Tensor, prediction_type: str, kept_signal: float) -> Tensor:
    """The clean latents that a prediction for `noisy` ones of unit variance points to; `kept_signal` is the cumulated alpha there."""
    keep, noise = math.sqrt(kept_signal), math.sqrt(1 - kept_signal)
    if prediction_type == "sample":
        return predicted
    return keep * noisy - noise * predicted if prediction_type == "v_prediction" else (noisy - noise * predicted) / keep


def steps_skipped(steps: int, strength: float | None) -> int:
    """Of `steps`, those before the start; see Sampler."""
    return 0 if strength is None else max(steps - max(int(steps * strength), 1), 0)


def _settings(config: Mapping[str, Any], scheduler_class: Any, wanted: Mapping[str, Any], *, steps: int) -> dict[str, Any]:
    """`config` with what is `wanted` of the class, and with what would not fit it put right."""
    known = inspect.signature(scheduler_class.__init__).parameters
    settings = {**config, **{setting: value for setting, value in wanted.items() if setting in known}}
    if settings.get("use_karras_sigmas") and "use_karras_sigmas" in wanted:
        # Schedulers refuse two ways of spacing at once, and the request's goes before the checkpoint's.
        settings |= {spacing: False for spacing in _OTHER_SPACINGS if settings.get(spacing)}
    if "algorithm_type" in known:
        settings |= _solving(str(settings.get("algorithm_type", "dpmsolver++")), scheduler_class)
    if "original_inference_steps" in known:
        # LCM and TCD choose their timesteps among this many, and refuse more steps than that.
        settings["original_inference_steps"] = max(steps, settings.get("original_inference_steps", 50))
    return settings


def _solving(algorithm_type: str, scheduler_class: Any) -> dict[str, Any]:
    """The algorithm as the class bears it, and what must go with it."""
    if scheduler_class is diffusers.DEISMultistepScheduler:
        return {"algorithm_type": "deis"}
    match algorithm_type:
        case "sde-dpmsolver":
            # Under guidance, 20 steps of it leave noise in the picture; diffusers itself sends its users to the other.
            return {"algorithm_type": "sde-dpmsolver++"}
        case "dpmsolver":
            # Divides by the last sigma: diffusers refuses it where that is zero.
            return {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
        case _:
            return {"algorithm_type": algorithm_type}
