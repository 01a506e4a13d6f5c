"""Control nets for the embedded model, with weights nobody trained: they lead somewhere, which is all a test needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from sdapi.pipelines.control.controlnets import ControlNetwork

from .drawing import demo_parts


def a_control_net_model(seed: int, **config: object) -> Any:
    """A copy of the embedded UNet's encoder whose zero convolutions are not zero. `config` changes its configuration."""
    torch.manual_seed(seed)
    network = ControlNetModel.from_unet(demo_parts().unet, conditioning_channels=3)
    network.register_to_config(**config)
    with torch.no_grad():
        for zeroed in (*network.controlnet_down_blocks, network.controlnet_mid_block, network.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(zeroed.weight, std=0.1)
            torch.nn.init.normal_(zeroed.bias, std=0.05)
        # Fresh convolutions pass little of the hint on.
        network.controlnet_cond_embedding.conv_out.weight *= 40
    return network.eval().requires_grad_(requires_grad=False)


def a_control_net(seed: int, net_id: str = "net", **config: object) -> ControlNetwork:
    """The same, as rows are led by it."""
    return ControlNetwork(net_id, a_control_net_model(seed, **config))


def install(models_dir: Path, net_id: str, seed: int = 1) -> None:
    """Put a net into the models folder, in the diffusers layout."""
    a_control_net_model(seed).save_pretrained(models_dir / "controlnets" / net_id)
