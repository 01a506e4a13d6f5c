"""VAEs that requests choose: read from a diffusers folder or one file, checked to fit the model's latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL

from sdapi.catalog import Asset, Refused, part_weights
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.loading.mapped_weights import own_memory
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS

_CHECKPOINT_PREFIX = "first_stage_model."


@dataclass(frozen=True, eq=False)
class Vae:
    """One VAE that fits a model, in eval mode on its device."""

    network: Any

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return sum(tensor.nbytes for tensor in (*self.network.parameters(), *self.network.buffers()))


class VaeReader:
    """Reads VAEs for one model."""

    def __init__(self, own: Any, *, device: torch.device, dtype: torch.dtype, configs_dir: Path = SHIPPED_CONFIGS / "sd1") -> None:
        """`own` is the model's own VAE; `configs_dir/vae/config.json` describes single files."""
        self._own = own
        self._device = device
        self._dtype = dtype
        self._configs_dir = configs_dir

    def read(self, asset: Asset) -> Vae:
        """Blocks for about a second. Raises Refused where it doesn't fit the model, and what diffusers raises on damaged files."""
        with quiet_loading():
            network = self._from_folder(asset.path) if asset.layout == "diffusers" else self._from_file(asset.path)
            network = network.eval().requires_grad_(requires_grad=False).to(self._device, self._dtype)
        for name in ("latent_channels", "scaling_factor"):
            ours, theirs = getattr(self._own.config, name), getattr(network.config, name, None)
            if ours != theirs:
                raise Refused(f"Its {name} is {theirs}, the model's is {ours}; it was made for another family of models.")
        if len(network.config.block_out_channels) != len(self._own.config.block_out_channels):
            raise Refused("It makes pictures of another size from the same latents.")
        own_memory(network)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
            raise Refused("Its weights are not numbers.")
        return Vae(network)

    def _from_folder(self, folder: Path) -> Any:
        variant = part_weights(folder, prefer_fp16=self._dtype == torch.float16).variant
        network, loaded = AutoencoderKL.from_pretrained(
            folder, dtype=self._dtype, variant=variant, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        # diffusers only warns of missing weights, and fills them with random numbers.
        if loaded["missing_keys"]:
            raise Refused(f"It lacks weights such as {min(loaded['missing_keys'])}.")
        return network

    def _from_file(self, file: Path) -> Any:
        tensors = {name.removeprefix(_CHECKPOINT_PREFIX): tensor for name, tensor in safetensors.torch.load_file(file).items()}
        if any(name.startswith("decoder.up_blocks.") for name in tensors):
            return self._from_diffusers_names(tensors)
        prefixed = {_CHECKPOINT_PREFIX + name: tensor for name, tensor in tensors.items()}
        try:
            return AutoencoderKL.from_single_file(
                prefixed, config=str(self._configs_dir), subfolder="vae", dtype=self._dtype, local_files_only=True
            )
        except NotImplementedError as error:
            # "Cannot copy out of meta tensor": what the file did not fill is still without data.
            raise Refused("Weights are missing in it.") from error
        except ValueError as error:
            raise Refused("Its weights have other shapes than those of this family's VAE.") from error

    def _from_diffusers_names(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        network: Any = AutoencoderKL.from_config(AutoencoderKL.load_config(self._configs_dir / "vae"))
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise Refused("Its weights are not those of this family's VAE.") from error
        return network
