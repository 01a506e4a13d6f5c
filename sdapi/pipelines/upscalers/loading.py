"""An upscaler from its file to the device."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdapi.catalog import Asset, ModelBroken, Refused

from .architecture import network_of
from .model import UpscalerModel


def load_upscaler(asset: Asset, *, device: torch.device, dtype: torch.dtype) -> UpscalerModel:
    """Raises ModelBroken, in a sentence for the client, where the file is damaged or holds a network of another kind."""
    try:
        # Cloned, because what safetensors reads stays mapped from a file that may be replaced.
        tensors = {name: tensor.to(device, dtype, copy=True) for name, tensor in load_file(asset.weights[0]).items()}
        return UpscalerModel(asset.id, network_of(tensors))
    except Refused as refusal:
        raise ModelBroken(asset.id, f"The upscaler {asset.id!r} can't be used: {refusal}") from refusal
    except (OSError, SafetensorError) as error:
        raise ModelBroken(asset.id, f"The upscaler {asset.id!r} can't be read: its file is damaged.") from error
