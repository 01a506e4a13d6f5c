"""What samplers do at each of their steps, as numbers: found once by `plan_probing.py`, then shared by all rows that go the same way.

For a given number of steps nearly every scheduler of diffusers is linear: a step makes the new latents, and what it remembers for
later steps, by adding up the latents, what it remembers, the prediction and fresh noise, each times a number that no picture changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

PREDICTION_AND_NOISE = 2
"""What a step takes besides its row's state."""


@dataclass(frozen=True)
class Plan:
    """Of one scheduler, number of steps and start. A row's state is `slots` tensors of the latents' shape: the latents, then history."""

    name: str
    """The sampler's, as it was asked for."""
    timesteps: Tensor
    """(steps,), on the CPU."""
    initial_noise_sigma: float
    prediction_type: str
    input_scales: tuple[float, ...]
    """Of each step: what the latents are multiplied by before the UNet sees them."""
    noisings: tuple[tuple[float, float], ...]
    """Of each step: the shares of clean latents and of noise in latents noised to its timestep."""
    kept_signals: tuple[float, ...]
    """Of each step: the cumulated alpha at its timestep."""
    table: Tensor
    """(steps, slots, slots + 2), float32 on the CPU: each new slot as a sum of the old ones, the prediction and the noise."""
    draws: tuple[bool, ...]
    """Of each step: whether it draws noise, be it of no use."""
    _brought: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def slots(self) -> int:
        """Tensors of the latents' shape in a row's state, the latents among them: 1 to about 5."""
        return self.table.shape[1]

    def coefficients(self, position: int, slots: int, device: torch.device) -> Tensor:
        """(slots, slots + 2) of one step on `device`, for a state that has `slots`, at least the plan's own; those beyond stay zero.

        The whole table is brought there at its first use: a copy of a few numbers costs as much as a kernel.
        """
        brought = self._brought.get((slots, device))
        if brought is None:
            brought = self._brought[slots, device] = self._widened(slots).to(device)
        return brought[position]

    def _widened(self, slots: int) -> Tensor:
        more = slots - self.slots
        state, added = self.table[..., : self.slots], self.table[..., self.slots :]
        wide = torch.cat([functional.pad(state, (0, more)), added], dim=-1)
        return functional.pad(wide, (0, 0, 0, more))
