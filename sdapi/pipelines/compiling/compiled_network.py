"""A UNet as it is compiled: without what torch's compiler would write into the code, so that one file serves all weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward


class BiaslessNetwork(nn.Module):
    """The UNet without its last bias, which has so few numbers that the compiler takes them for constants."""

    def __init__(self, unet: Any) -> None:
        """Takes the bias away from `unet` itself."""
        super().__init__()
        self.unet = unet
        unet.conv_out.bias = None

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor | None, sizes: Tensor | None) -> Tensor:
        """See `ForwardInputs`."""
        return forward(self.unet, ForwardInputs(latents, timesteps, context, pooled, sizes))
