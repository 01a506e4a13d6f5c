"""Weights from disk to device: diffusers folders and single files of Stable Diffusion 1.x, 2.x and XL, with no hub and no pickles."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdapi.catalog import UNET_FAMILIES, Asset, Checkpoint, ModelBroken, Refused, UnetFamily, part_weights
from sdapi.pipelines.loading.mapped_weights import common_dtype, place, stored_dtype
from sdapi.pipelines.loading.reading_errors import READING_ERRORS
from sdapi.pipelines.loading.single_files import (
    SHIPPED_CONFIGS,
    Incomplete,
    marked_prediction,
    network_from,
    second_text_encoder_from,
    shipped_for,
    text_encoder_from,
    tokenizer_from,
)
from sdapi.pipelines.samplers.prediction_types import predicts_noise

_log = logging.getLogger(__name__)

# Both libraries swap process-wide state (default dtype, module hooks, log levels) while they build a model, so never two at once.
_ONE_AT_A_TIME = Lock()

_V_PREDICTION_SAMPLE_SIZE = 96
"""Stable Diffusion 2's models that predict velocity were trained at 768 px, the others at 512."""

_LOADING_ERRORS = (*READING_ERRORS, SingleFileComponentError)


@dataclass(frozen=True)
class UnetComponents:
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
    family: UnetFamily = "sd1"
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    """Of Stable Diffusion XL; others have one of each."""
    has_zeros_for_empty_prompt: bool = False
    """Whether zeros, instead of an encoded empty prompt, stand for no negative prompt."""

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        """One or two."""
        return (self.text_encoder,) if self.text_encoder_2 is None else (self.text_encoder, self.text_encoder_2)

    @property
    def networks(self) -> tuple[Any, ...]:
        """Everything that has weights."""
        return (*self.text_encoders, self.unet, self.vae)


@dataclass(frozen=True)
class _Formats:
    dtype: torch.dtype
    """Of what reads words and predicts."""
    vae_dtype: torch.dtype


@dataclass(frozen=True)
class _Parts:
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: dict[str, Any]
    is_prediction_known: bool = True
    """Whether the scheduler's configuration says for sure what the UNet predicts."""
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    has_zeros_for_empty_prompt: bool = False

    @property
    def networks(self) -> tuple[Any, ...]:
        """Every one there is."""
        second = () if self.text_encoder_2 is None else (self.text_encoder_2,)
        return (self.text_encoder, *second, self.unet, self.vae)


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype | None = None,
    configs_dir: Path | None = None,
) -> UnetComponents:
    """Read a checkpoint of one of the families that are drawn by the joint loop. Blocks for seconds.

    `vae_dtype` None is `dtype`: whoever draws in a format of few bits may want its pictures in one of more.
    `configs_dir` is a diffusers folder without weights that describes single files, in the place of the one shipped for the family;
    diffusers folders bring their own. Single files of Stable Diffusion 2.x don't say what they predict: see `prediction_types.py`.
    What it returns no longer depends on the files, which may be replaced or removed.
    Raises ModelBroken when the files are damaged, and torch.OutOfMemoryError when the device is too small.
    """
    formats = _Formats(dtype, vae_dtype or dtype)
    with _ONE_AT_A_TIME, _quiet():
        try:
            family = _family_of(checkpoint)
            if checkpoint.layout == "diffusers":
                parts = _read_folder(checkpoint.path, family, formats)
            else:
                parts = _read_file(checkpoint, family, configs_dir or SHIPPED_CONFIGS / family, formats)
        except _LOADING_ERRORS as error:
            _log.exception("checkpoint can't be loaded", extra={"model": checkpoint.id})
            raise ModelBroken(checkpoint.id, f"The model {checkpoint.id!r} can't be loaded.") from error
        except Incomplete as error:
            raise ModelBroken(checkpoint.id, f"The model {checkpoint.id!r} can't be loaded: {error}.") from error
    return _on_device(checkpoint, family, parts, device, formats)


def load_controlnet(asset: Asset, *, device: torch.device, dtype: torch.dtype, configs_dir: Path | None = None) -> Any:
    """A ControlNetModel for any of the joint loop's families, in eval mode on its device, without gradients. Blocks for seconds.

    Folders bring their configuration, single files take the one in `configs_dir`, or of their family. Raises ModelBroken when the
    files are damaged or made for something else, and torch.OutOfMemoryError.
    """
    with _ONE_AT_A_TIME, _quiet():
        try:
            if asset.layout == "diffusers":
                network = network_from_folder(ControlNetModel, asset.path, dtype, as_stored=True)
            else:
                tensors = safetensors.torch.load_file(asset.path)
                stored = common_dtype(tensors.values()) or dtype
                network = network_from(ControlNetModel, tensors, configs_dir or shipped_for(tensors), "controlnet", stored)
        except _LOADING_ERRORS as error:
            _log.exception("control net can't be loaded", extra={"model": asset.id})
            sentence = f"The control net {asset.id!r} can't be loaded: it is damaged or not made for Stable Diffusion."
            raise ModelBroken(asset.id, sentence) from error
        except Incomplete as error:
            raise ModelBroken(asset.id, f"The control net {asset.id!r} can't be loaded: {error}.") from error
    network.eval().requires_grad_(requires_grad=False)
    place(network, device, dtype, channels_last=True)
    return network


def _family_of(checkpoint: Checkpoint) -> UnetFamily:
    for family in UNET_FAMILIES:
        if checkpoint.family == family:
            return family
    raise ValueError(f"{checkpoint.family} is drawn by a whole pipeline")


def _read_folder(path: Path, family: UnetFamily, formats: _Formats) -> _Parts:
    dtype = formats.dtype
    parts = _Parts(
        tokenizer=CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True),
        text_encoder=network_from_folder(CLIPTextModel, path / "text_encoder", dtype, as_stored=True),
        unet=network_from_folder(UNet2DConditionModel, path / "unet", dtype, as_stored=True),
        vae=network_from_folder(AutoencoderKL, path / "vae", formats.vae_dtype, as_stored=True),
        scheduler_config=_scheduler_config(path),
    )
    if family != "sdxl":
        return parts
    return replace(
        parts,
        tokenizer_2=CLIPTokenizer.from_pretrained(path / "tokenizer_2", local_files_only=True),
        text_encoder_2=network_from_folder(CLIPTextModelWithProjection, path / "text_encoder_2", dtype, as_stored=True),
        has_zeros_for_empty_prompt=_has_zeros_for_empty_prompt(path),
    )


def network_from_folder(model_class: Any, folder: Path, dtype: torch.dtype, *, as_stored: bool = False) -> Any:
    """A network by its own configuration, on the CPU. Raises Incomplete where weights are missing, and what the libraries raise.

    `as_stored` leaves converting to whoever calls (see `place`), where the files keep to one number format: there is nothing to copy then.
    """
    try:
        weights = part_weights(folder, prefer_fp16=dtype == torch.float16)
        read_as = (stored_dtype(weights.files) if as_stored else None) or dtype
    except Refused as refusal:
        raise Incomplete(str(refusal).rstrip(".")) from refusal
    model, loaded = model_class.from_pretrained(
        folder, dtype=read_as, variant=weights.variant, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    # The libraries only warn of missing weights, and fill them with random numbers.
    if loaded["missing_keys"]:
        raise Incomplete(f"{folder.name} lacks weights such as {min(loaded['missing_keys'])}")
    return model


def _read_file(checkpoint: Checkpoint, family: UnetFamily, configs_dir: Path, formats: _Formats) -> _Parts:
    tensors = safetensors.torch.load_file(checkpoint.path)
    # Converted on the way to the device, where the file keeps to one number format.
    stored = common_dtype(tensors.values())
    dtype, vae_dtype = stored or formats.dtype, stored or formats.vae_dtype
    marks = marked_prediction(tensors)
    parts = _Parts(
        tokenizer=tokenizer_from(configs_dir / "tokenizer"),
        text_encoder=text_encoder_from(tensors, family, configs_dir, dtype),
        unet=network_from(UNet2DConditionModel, tensors, configs_dir, "unet", dtype, in_channels=checkpoint.in_channels),
        vae=network_from(AutoencoderKL, tensors, configs_dir, "vae", vae_dtype),
        scheduler_config=_scheduler_config(configs_dir) | marks,
        is_prediction_known=family != "sd2" or bool(marks),
    )
    if family != "sdxl":
        return parts
    return replace(
        parts,
        tokenizer_2=tokenizer_from(configs_dir / "tokenizer_2"),
        text_encoder_2=second_text_encoder_from(tensors, configs_dir, dtype),
        has_zeros_for_empty_prompt=_has_zeros_for_empty_prompt(configs_dir),
    )


def _has_zeros_for_empty_prompt(folder: Path) -> bool:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return bool(index.get("force_zeros_for_empty_prompt", True))


def _scheduler_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise Incomplete("scheduler_config.json names no scheduler")
    return config


def _on_device(checkpoint: Checkpoint, family: UnetFamily, parts: _Parts, device: torch.device, formats: _Formats) -> UnetComponents:
    vae_dtype = formats.vae_dtype
    if family == "sdxl" and vae_dtype == torch.float16 and parts.vae.config.force_upcast:
        vae_dtype = torch.float32  # its activations overflow in float16
    networks = parts.networks
    for network in networks:
        network.eval().requires_grad_(requires_grad=False)
        # Channels last is what convolutions read fastest: tensor cores, and CPUs by a tenth or so (`python -m benchmarks.formats`).
        place(network, device, vae_dtype if network is parts.vae else formats.dtype, channels_last=network in (parts.unet, parts.vae))
    scheduler_config = dict(parts.scheduler_config)
    if checkpoint.prediction_type is not None:
        scheduler_config["prediction_type"] = checkpoint.prediction_type
    elif not parts.is_prediction_known and not predicts_noise(parts.unet):
        scheduler_config["prediction_type"] = "v_prediction"
        parts.unet.register_to_config(sample_size=_V_PREDICTION_SAMPLE_SIZE)
    if checkpoint.scheduler is not None:
        scheduler_config["_class_name"] = checkpoint.scheduler.value
    return UnetComponents(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        unet=parts.unet,
        vae=parts.vae,
        scheduler_config=scheduler_config,
        vae_scale_factor=2 ** (len(parts.vae.config.block_out_channels) - 1),
        max_tokens=int(parts.text_encoder.config.max_position_embeddings),
        bytes=sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers())),
        family=family,
        tokenizer_2=parts.tokenizer_2,
        text_encoder_2=parts.text_encoder_2,
        has_zeros_for_empty_prompt=parts.has_zeros_for_empty_prompt,
    )


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
