"""An upscaler from its file to the device."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdapi.catalog import Asset, ModelBroken, Refused
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.loading.whole_loader import load_whole

from .architecture import network_of
from .diffusion import DiffusionUpscaler
from .kinds import Upscaler
from .model import UpscalerModel


def load_upscaler(asset: Asset, *, device: torch.device, dtype: torch.dtype) -> Upscaler:
    """Raises ModelBroken, in a sentence for the client, where the file is damaged or holds a network of another kind."""
    if asset.is_pipeline:
        return DiffusionUpscaler(asset.id, load_whole(asset, device=device, dtype=dtype, is_dtype_chosen=True))
    try:
        # Cloned, because what safetensors reads stays mapped from a file that may be replaced.
        tensors = {name: tensor.to(device, dtype, copy=True) for name, tensor in load_file(asset.weights[0]).items()}
        with quiet_loading():  # while diffusers builds a network, all that are built beside it have no weights
            network = network_of(tensors)
        return UpscalerModel(asset.id, network)
    except Refused as refusal:
        raise ModelBroken(asset.id, f"The upscaler {asset.id!r} can't be used: {refusal}") from refusal
    except (OSError, SafetensorError) as error:
        raise ModelBroken(asset.id, f"The upscaler {asset.id!r} can't be read: its file is damaged.") from error
