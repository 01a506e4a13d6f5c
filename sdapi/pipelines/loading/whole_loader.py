"""Diffusers folders of any pipeline from disk to device, part by part: no hub, no pickles, no code of the model's own."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import safe_open

from sdapi.catalog import Asset, Checkpoint, ModelBroken, part_weights
from sdapi.pipelines.loading.loader import network_from_folder, quiet_loading
from sdapi.pipelines.loading.mapped_weights import own_memory
from sdapi.pipelines.loading.reading_errors import READING_ERRORS
from sdapi.pipelines.loading.single_files import Incomplete

_log = logging.getLogger(__name__)

_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
_DENOISERS = ("transformer", "unet")
_UNET_PARAMETERS = 860_000_000
"""Of Stable Diffusion 1.x."""


@dataclass(frozen=True)
class WholeComponents:
    """A loaded pipeline in parts: networks in eval mode on their device, without gradients. Shared by all pictures, nobody changes it."""

    pipeline_class: Any
    """The one that draws from words alone."""
    components: Mapping[str, Any]
    """By their names in the pipeline's constructor, optional ones that the folder leaves out as None; the scheduler only to be copied."""
    options: Mapping[str, Any]
    """What else the constructor takes."""
    device: torch.device
    bytes: int
    """What parameters and buffers take on the device."""
    denoiser_parameters: int
    """Of the network that is called at each step."""

    @property
    def denoiser(self) -> Any:
        """That network."""
        return next(self.components[name] for name in _DENOISERS if self.components.get(name) is not None)

    @property
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """Everything that has weights."""
        return tuple(part for part in self.components.values() if isinstance(part, torch.nn.Module))

    @property
    def forwards_of_a_step(self) -> int:
        """What calling that network once costs in forwards of Stable Diffusion 1.x' UNet, in which turns are reckoned."""
        return max(1, round(self.denoiser_parameters / _UNET_PARAMETERS))


def load_whole(checkpoint: Checkpoint | Asset, *, device: torch.device, dtype: torch.dtype, is_dtype_chosen: bool) -> WholeComponents:
    """Read a diffusers folder that the catalog has looked through. Blocks for seconds.

    `dtype` is the device's. Unless the operator chose it, weights in bfloat16 stay that: these families were made for it, and float16
    is too narrow for their text encoders. What it returns no longer depends on the files.
    Raises ModelBroken when the files are damaged, and torch.OutOfMemoryError when the device is too small.
    """
    with quiet_loading():
        try:
            return _read(checkpoint.path, device, dtype, is_dtype_chosen=is_dtype_chosen)
        except Incomplete as error:
            raise ModelBroken(checkpoint.id, f"The model {checkpoint.id!r} can't be loaded: {error}.") from error
        except torch.OutOfMemoryError:
            raise
        except ImportError as error:
            sentence = f"The model {checkpoint.id!r} can't be loaded: a library it needs is not installed here. {_first_line(error)}"
            raise ModelBroken(checkpoint.id, sentence) from error
        except READING_ERRORS as error:
            _log.exception("checkpoint can't be loaded", extra={"model": checkpoint.id})
            raise ModelBroken(checkpoint.id, f"The model {checkpoint.id!r} can't be loaded.") from error


def _first_line(error: ImportError) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _read(folder: Path, device: torch.device, dtype: torch.dtype, *, is_dtype_chosen: bool) -> WholeComponents:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    pipeline_class = _drawing_from_words(str(index["_class_name"]))
    sources = {name: source for name, source in index.items() if isinstance(source, list)}
    options = {name: value for name, value in index.items() if not name.startswith("_") and not isinstance(value, list)}
    if not is_dtype_chosen:
        dtype = _dtype_of(folder, sources, dtype)
    components = {
        name: None if library is None else _part(folder / name, library, kind, dtype) for name, (library, kind) in sources.items()
    }
    networks = [part for part in components.values() if isinstance(part, torch.nn.Module)]
    for network in networks:
        network.eval().requires_grad_(requires_grad=False).to(device)
        own_memory(network)
    denoiser = next((components[name] for name in _DENOISERS if components.get(name) is not None), None)
    if denoiser is None or components.get("scheduler") is None:
        raise Incomplete("it has no network to denoise with, or no scheduler")
    loaded = WholeComponents(
        pipeline_class=pipeline_class,
        components=components,
        options=options,
        device=device,
        bytes=sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers())),
        denoiser_parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
    )
    assembled(loaded, pipeline_class)  # what doesn't fit together should be told now
    return loaded


def assembled(parts: WholeComponents, pipeline_class: Any) -> Any:
    """A pipeline of that class around the shared networks, with a scheduler of its own: a scheduler keeps the state of one picture."""
    own = {"scheduler": type(parts.components["scheduler"]).from_config(parts.components["scheduler"].config)}
    given = {**parts.components, **parts.options, **own}
    wanted = {name: parameter for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items() if name != "self"}
    for name, parameter in wanted.items():
        if name not in given and parameter.default is parameter.empty:
            if name not in pipeline_class._optional_components:  # noqa: SLF001 - nowhere else does diffusers say it
                raise Incomplete(f"it has no {name}")
            given[name] = None
    pipe = pipeline_class(**{name: part for name, part in given.items() if name in wanted})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _drawing_from_words(name: str) -> Any:
    """The class itself, or its sibling that takes no picture: a folder saved by any of them has the same parts."""
    return getattr(diffusers, name.replace("Img2ImgPipeline", "Pipeline").replace("InpaintPipeline", "Pipeline"))


def _dtype_of(folder: Path, sources: Mapping[str, Any], device_dtype: torch.dtype) -> torch.dtype:
    denoiser = next((folder / name for name in _DENOISERS if name in sources), None)
    if denoiser is None:
        raise Incomplete("it has no network to denoise with")
    with safe_open(part_weights(denoiser, prefer_fp16=False).files[0], framework="pt") as file:
        saved = _DTYPES.get(file.get_slice(next(iter(file.keys()))).get_dtype(), torch.float32)
    if saved is torch.bfloat16 or (device_dtype is torch.float16 and saved is not torch.float16):
        return torch.bfloat16
    return device_dtype


def _part(folder: Path, library: str, class_name: str, dtype: torch.dtype) -> Any:
    part_class = getattr(_LIBRARIES[library], class_name)
    if not issubclass(part_class, torch.nn.Module):
        return part_class.from_pretrained(folder, local_files_only=True)
    return network_from_folder(part_class, folder, dtype)
