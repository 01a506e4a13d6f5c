"""How far a running job is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Denoising steps done out of all the job's samples' steps."""

    step: int
    steps: int
