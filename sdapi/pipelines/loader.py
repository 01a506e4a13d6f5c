"""Weights from disk to device: diffusers folders and single files of Stable Diffusion 1.x, with no hub and no pickles."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdapi.catalog import Asset, Checkpoint, ModelBroken, Refused, part_weights

SHIPPED_CONFIGS = Path(__file__).parent / "configs" / "sd1"

_log = logging.getLogger(__name__)

# Both libraries swap process-wide state (default dtype, module hooks, log levels) while they build a model, so never two at once.
_ONE_AT_A_TIME = Lock()

# What the libraries raise on damaged or mislabelled files; there is no common base.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    SingleFileComponentError,
)

_LDM_TEXT_ENCODER = "cond_stage_model.transformer."


@dataclass(frozen=True)
class Sd1Components:
    """A loaded model: networks in eval mode on their device, without gradients. Shared by all pictures, so nobody changes it."""

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    """With `_class_name`, the checkpoint's own scheduler; the sidecar's choices are already in it."""
    vae_scale_factor: int
    """Pixels per latent cell, along each side."""
    max_tokens: int
    """Of one chunk of a prompt, start and end included."""
    bytes: int
    """What parameters and buffers take on the device."""


@dataclass(frozen=True)
class _Parts:
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: dict[str, Any]


def load_sd1(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype, configs_dir: Path = SHIPPED_CONFIGS) -> Sd1Components:
    """Read a Stable Diffusion 1.x checkpoint. Blocks for seconds.

    `configs_dir` is a diffusers folder without weights that describes single files; diffusers folders bring their own.
    What it returns no longer depends on the files, which may be replaced or removed.
    Raises ModelBroken when the files are damaged, and torch.OutOfMemoryError when the device is too small.
    """
    with _ONE_AT_A_TIME, _quiet():
        try:
            parts = _read_folder(checkpoint.path, dtype) if checkpoint.layout == "diffusers" else _read_file(checkpoint, configs_dir, dtype)
        except _LOADING_ERRORS as error:
            _log.exception("checkpoint can't be loaded", extra={"model": checkpoint.id})
            raise ModelBroken(checkpoint.id, f"The model {checkpoint.id!r} can't be loaded.") from error
        except _Incomplete as error:
            raise ModelBroken(checkpoint.id, f"The model {checkpoint.id!r} can't be loaded: {error}.") from error
    return _on_device(checkpoint, parts, device)


def load_controlnet(asset: Asset, *, device: torch.device, dtype: torch.dtype, configs_dir: Path = SHIPPED_CONFIGS) -> Any:
    """A ControlNetModel for Stable Diffusion 1.x, in eval mode on its device, without gradients. Blocks for seconds.

    Folders bring their configuration, single files take the one in `configs_dir`. Raises ModelBroken when the files are damaged or made
    for another family, and torch.OutOfMemoryError.
    """
    with _ONE_AT_A_TIME, _quiet():
        try:
            if asset.layout == "diffusers":
                network = _from_folder(ControlNetModel, asset.path, dtype)
            else:
                network = _from_tensors(ControlNetModel, safetensors.torch.load_file(asset.path), configs_dir, "controlnet", dtype)
        except _LOADING_ERRORS as error:
            _log.exception("control net can't be loaded", extra={"model": asset.id})
            sentence = f"The control net {asset.id!r} can't be loaded: it is damaged or not made for Stable Diffusion 1.x."
            raise ModelBroken(asset.id, sentence) from error
        except _Incomplete as error:
            raise ModelBroken(asset.id, f"The control net {asset.id!r} can't be loaded: {error}.") from error
    network.eval().requires_grad_(requires_grad=False).to(device)
    _own_memory(network)
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


class _Incomplete(Exception):
    """Weights the architecture needs are not there."""


def _read_folder(path: Path, dtype: torch.dtype) -> _Parts:
    return _Parts(
        tokenizer=CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True),
        text_encoder=_from_folder(CLIPTextModel, path / "text_encoder", dtype),
        unet=_from_folder(UNet2DConditionModel, path / "unet", dtype),
        vae=_from_folder(AutoencoderKL, path / "vae", dtype),
        scheduler_config=_scheduler_config(path),
    )


def _from_folder(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    try:
        variant = part_weights(folder, prefer_fp16=dtype == torch.float16).variant
    except Refused as refusal:
        raise _Incomplete(str(refusal).rstrip(".")) from refusal
    model, loaded = model_class.from_pretrained(
        folder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    # The libraries only warn of missing weights, and fill them with random numbers.
    if loaded["missing_keys"]:
        raise _Incomplete(f"{folder.name} lacks weights such as {min(loaded['missing_keys'])}")
    return model


def _read_file(checkpoint: Checkpoint, configs_dir: Path, dtype: torch.dtype) -> _Parts:
    # diffusers' own reader unpickles whatever is not called .safetensors; this one reads nothing else, and diffusers gets the tensors.
    tensors = safetensors.torch.load_file(checkpoint.path)
    return _Parts(
        tokenizer=CLIPTokenizer.from_pretrained(configs_dir / "tokenizer", local_files_only=True),
        text_encoder=_text_encoder_from(tensors, configs_dir, dtype),
        unet=_from_tensors(UNet2DConditionModel, tensors, configs_dir, "unet", dtype, in_channels=checkpoint.in_channels),
        vae=_from_tensors(AutoencoderKL, tensors, configs_dir, "vae", dtype),
        scheduler_config=_scheduler_config(configs_dir),
    )


def _from_tensors(
    model_class: Any, tensors: dict[str, torch.Tensor], configs_dir: Path, part: str, dtype: torch.dtype, **sizes: int
) -> Any:
    """`sizes` are what the file's own tensors say of the network, against its configuration."""
    try:
        # Copied, because converting one part takes tensors out of the dictionary it is given.
        return model_class.from_single_file(
            dict(tensors), config=str(configs_dir), subfolder=part, dtype=dtype, local_files_only=True, **sizes
        )
    except NotImplementedError as error:
        # "Cannot copy out of meta tensor": what the file did not fill is still without data.
        raise _Incomplete(f"{part} lacks weights") from error


def _text_encoder_from(tensors: Mapping[str, torch.Tensor], configs_dir: Path, dtype: torch.dtype) -> Any:
    # Some merges lack the `text_model.` level; CLIPTextModel itself has none.
    state = {
        name.removeprefix(_LDM_TEXT_ENCODER).removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith(_LDM_TEXT_ENCODER) and not name.endswith(".position_ids")
    }
    config = CLIPTextConfig.from_pretrained(configs_dir / "text_encoder", local_files_only=True)
    model, loaded = CLIPTextModel.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    if loaded["missing_keys"]:
        raise _Incomplete(f"the text encoder lacks weights such as {min(loaded['missing_keys'])}")
    return model


def _scheduler_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise _Incomplete("scheduler_config.json names no scheduler")
    return config


def _on_device(checkpoint: Checkpoint, parts: _Parts, device: torch.device) -> Sd1Components:
    networks = (parts.text_encoder, parts.unet, parts.vae)
    for network in networks:
        network.eval().requires_grad_(requires_grad=False).to(device)
        _own_memory(network)
    if device.type == "cuda":
        # Tensor cores read convolutions in this order; on the CPU it gains nothing.
        parts.unet.to(memory_format=torch.channels_last)
        parts.vae.to(memory_format=torch.channels_last)
    scheduler_config = dict(parts.scheduler_config)
    if checkpoint.prediction_type is not None:
        scheduler_config["prediction_type"] = checkpoint.prediction_type
    if checkpoint.scheduler is not None:
        scheduler_config["_class_name"] = checkpoint.scheduler.value
    return Sd1Components(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        unet=parts.unet,
        vae=parts.vae,
        scheduler_config=scheduler_config,
        vae_scale_factor=2 ** (len(parts.vae.config.block_out_channels) - 1),
        max_tokens=int(parts.text_encoder.config.max_position_embeddings),
        bytes=sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers())),
    )


def _own_memory(network: Any) -> None:
    """Copy weights that are still mapped from their file; those that were converted or sent to a GPU have been copied already.

    Mapped weights lie at odd addresses, which changes the last bits of a picture with the length of a file's header, and writing
    into the file would kill the process (SIGBUS).
    """
    for parameter in network.parameters():
        # Torch can grow the storage it allocated itself, and no other.
        if parameter.device.type == "cpu" and not parameter.untyped_storage().resizable():
            parameter.data = parameter.data.clone()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """For whoever else builds a network with these libraries: alone, and without their remarks."""
    with _ONE_AT_A_TIME, _quiet():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep both libraries' progress bars and remarks out of the server's log, and put everything back."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library, (verbosity, had_bars) in zip(libraries, before, strict=True):
                library.set_verbosity(verbosity)
                if had_bars:
                    library.enable_progress_bar()
