"""Samplers in the words of A1111's web interface: read in requests, written into pictures.

Its names say more than the sampler alone: "DPM++ 2M SDE Karras" is a class, an equation and a spacing. Those that diffusers has no
class for stand for the nearest it has: "DPM fast" and "DPM adaptive" for DPM-Solver++ singlestep (without and with Karras sigmas),
"Restart" for stochastic Karras, "DPM++ 2S a" for DPM-Solver++ singlestep SDE, "DPM++ 3M SDE" for "DPM++ 2M SDE", and exponential
sigmas for Karras sigmas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .generation import AlgorithmType, SchedulerName


@dataclass(frozen=True)
class NamedSampler:
    """What a sampler's name asks for."""

    told: str
    """The name as it is repeated: the documented spelling, however the client wrote it."""
    scheduler: SchedulerName
    use_karras_sigmas: bool | None = None
    """None where the name doesn't say."""
    algorithm_type: AlgorithmType | None = None
    """None where the name doesn't say."""


_OF_A1111: Mapping[str, tuple[SchedulerName, AlgorithmType | None]] = {
    "DDPM": (SchedulerName.DDPM, None),
    "DDIM": (SchedulerName.DDIM, None),
    "PLMS": (SchedulerName.PNDM, None),
    "LMS": (SchedulerName.LMS, None),
    "Euler": (SchedulerName.EULER, None),
    "Euler a": (SchedulerName.EULER_ANCESTRAL, None),
    "Heun": (SchedulerName.HEUN, None),
    "DPM2": (SchedulerName.KDPM2, None),
    "DPM2 a": (SchedulerName.KDPM2_ANCESTRAL, None),
    "DPM++ 2M": (SchedulerName.DPM_MULTISTEP, "dpmsolver++"),
    "DPM++ 2M SDE": (SchedulerName.DPM_MULTISTEP, "sde-dpmsolver++"),
    "DPM++ 2M SDE Heun": (SchedulerName.DPM_MULTISTEP, "sde-dpmsolver++"),
    "DPM++ 3M SDE": (SchedulerName.DPM_MULTISTEP, "sde-dpmsolver++"),
    "DPM++ 2S": (SchedulerName.DPM_SINGLESTEP, "dpmsolver++"),
    "DPM++ 2S a": (SchedulerName.DPM_SINGLESTEP, "sde-dpmsolver++"),
    "DPM++ SDE": (SchedulerName.DPM_SDE, None),
    "DPM fast": (SchedulerName.DPM_SINGLESTEP, "dpmsolver++"),
    "DPM adaptive": (SchedulerName.DPM_SINGLESTEP, "dpmsolver++"),
    "Restart": (SchedulerName.KARRAS_VE, None),
    "UniPC": (SchedulerName.UNIPC, None),
    "DEIS": (SchedulerName.DEIS, None),
    "IPNDM": (SchedulerName.IPNDM, None),
    "LCM": (SchedulerName.LCM, None),
    "TCD": (SchedulerName.TCD, None),
}
"""Without the word "Karras" or "Exponential" at the end, which every one of them may have."""
_ALWAYS_KARRAS = frozenset({"DPM adaptive", "Restart"})

_TOLD_OF_A1111 = {
    SchedulerName.DDPM: "DDPM",
    SchedulerName.DDIM: "DDIM",
    SchedulerName.PNDM: "PLMS",
    SchedulerName.LMS: "LMS",
    SchedulerName.EULER: "Euler",
    SchedulerName.EULER_ANCESTRAL: "Euler a",
    SchedulerName.DPM_MULTISTEP: "DPM++ 2M",
    SchedulerName.HEUN: "Heun",
    SchedulerName.KDPM2: "DPM2",
    SchedulerName.DPM_SINGLESTEP: "DPM++ 2S",
    SchedulerName.KDPM2_ANCESTRAL: "DPM2 a",
    SchedulerName.UNIPC: "UniPC",
    SchedulerName.DEIS: "DEIS",
    SchedulerName.DDIM_INVERSE: "DDIM",
    SchedulerName.IPNDM: "LMS",
    SchedulerName.KARRAS_VE: "DPM2 a Karras",
    SchedulerName.SCORE_SDE_VE: "Euler a",
    SchedulerName.LCM: "LCM",
    SchedulerName.TCD: "TCD",
    SchedulerName.DPM_SDE: "DPM++ SDE",
}
WITH_KARRAS_SIGMAS = frozenset(
    {
        SchedulerName.LMS,
        SchedulerName.EULER,
        SchedulerName.DPM_MULTISTEP,
        SchedulerName.HEUN,
        SchedulerName.KDPM2,
        SchedulerName.DPM_SINGLESTEP,
        SchedulerName.KDPM2_ANCESTRAL,
        SchedulerName.UNIPC,
        SchedulerName.DEIS,
        SchedulerName.IPNDM,
        SchedulerName.DPM_SDE,
    }
)
"""To the others `use_karras_sigmas` means nothing; stochastic Karras has no other sigmas."""


def sampler_named(text: str) -> NamedSampler | None:
    """What `text` asks for: a class of diffusers with or without "Scheduler", a name of A1111's or k-diffusion's; None if unknown.

    Case, blanks, hyphens and underscores don't matter: "k_dpmpp_2m_karras" is "DPM++ 2M Karras".
    """
    return _KNOWN.get(_key(text))


def a1111_name(scheduler: SchedulerName, *, use_karras_sigmas: bool | None, algorithm_type: AlgorithmType | None) -> str:
    """What A1111 calls the sampler that draws so; where it has none of its own, the one that draws in its stead."""
    name = _TOLD_OF_A1111[scheduler]
    if algorithm_type is not None and algorithm_type.startswith("sde-"):
        name = {SchedulerName.DPM_MULTISTEP: "DPM++ 2M SDE", SchedulerName.DPM_SINGLESTEP: "DPM++ SDE"}.get(scheduler, name)
    return f"{name} Karras" if use_karras_sigmas and scheduler in WITH_KARRAS_SIGMAS else name


def _key(text: str) -> str:
    plain = re.sub(r"[\s_-]+", "", re.sub(r"^\s*k[_-]", "", text.lower()))
    return plain.replace("dpmpp", "dpm++").replace("ancestral", "a")


def _known() -> dict[str, NamedSampler]:
    known = {_key(name.value.removesuffix("Scheduler")): NamedSampler(name.value, name) for name in SchedulerName}
    for told, (scheduler, algorithm_type) in _OF_A1111.items():
        always = told in _ALWAYS_KARRAS
        known[_key(told)] = NamedSampler(told, scheduler, always, algorithm_type)
        for spacing in ("Karras", "Exponential"):
            spaced = f"{told} {spacing}"
            known[_key(spaced)] = NamedSampler(spaced, scheduler, use_karras_sigmas=True, algorithm_type=algorithm_type)
    return known | {_key(name.value): NamedSampler(name.value, name) for name in SchedulerName}


_KNOWN = _known()
