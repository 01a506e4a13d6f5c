"""Builds the drawing loop of one device: what is chosen once, when the first picture is asked for."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import warnings

import torch
from diffusers.utils import logging as diffusers_logging

from sdapi.catalog import Assets, Catalog
from sdapi.domain.device_options import DeviceOptions
from sdapi.machine import memory_limit_bytes
from sdapi.pipelines.compiling.compiler import Compiler, can_compile
from sdapi.pipelines.forwards.number_formats import number_formats
from sdapi.pipelines.forwards.unet_forward import ForwardOptions
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.expected_sizes import ExpectedSizes
from sdapi.pipelines.memory.host_tier import HostTier
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.memory.transfers import CudaTransfers
from sdapi.pipelines.memory.versions import ModelVersions
from sdapi.pipelines.quantizing.quantizer import Quantizer
from sdapi.pipelines.safety.safety_stage import SafetyStage
from sdapi.pipelines.scheduling.device_pacing import decoding_beside, open_pacing
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.words.translations import Translations

from .device_models import DeviceModels
from .trained_maps.shelf import AnnotatorShelf
from .upscalers.face_shelf import FaceShelf

_log = logging.getLogger(__name__)

_PAYS_AFTER_S = 120.0
"""Compiled, a forward takes a fifth to a half less (`benchmarks.compiling`), and making it takes half a minute of what is left of a core:
after so many seconds of forwards of one size, as many again will win that back."""
_LEAST_BYTES_TO_COMPILE = 6 * 2**30
"""Of the machine: for a Stable Diffusion 1 of full size it takes 1.8 GB for most of a minute."""
_HOST_SHARE = 4
"""Of the machine's memory a quarter is for models that have left the device, unless the operator says otherwise."""


def open_loop(catalog: Catalog, assets: Assets, options: DeviceOptions, host: HostTier | None = None) -> DrawingLoop:
    """The loop for that device, with no model loaded yet. `host` is where models wait that have left; None: as the options say."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device)
    formats = number_formats(options.dtype, device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.is_deterministic:
        torch.backends.cudnn.deterministic = True
    # numpy 2 warns of diffusers' schedulers at every step; nothing an operator could do about it.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"diffusers\..*")

    # Its pipelines put what they cut off of a prompt into the log.
    diffusers_logging.set_verbosity_error()

    if host is None:
        host = _host_tier(device, options.host_cache_bytes)
    memory = Memory(options.model_cache_bytes, unload_after_s=options.unload_after_s, release=_release_memory, host=host)
    versions = ModelVersions(catalog, assets)
    sizes = ExpectedSizes(catalog, assets, formats)
    compiler = _compiler(device, options)
    models = DeviceModels(
        catalog,
        assets,
        device,
        formats,
        memory,
        AnnotatorShelf(assets.annotators, memory, device=device),
        ForwardOptions(is_deterministic=options.is_deterministic, compiler=compiler),
        None if options.quantize == "off" else Quantizer(options.quantize, is_deterministic=options.is_deterministic),
    )
    # SD 1.x at 512 px gains from 8 to 16 rows on a GPU; on CPU cores a larger batch only makes newcomers wait longer.
    batch_pixels = (16 if device.type == "cuda" else 4) * 512 * 512
    if options.owns_process:
        # Looking through all of the libraries for garbage takes a quarter of a second, in which no other thread gets on.
        gc.collect()
        gc.freeze()
    _log.info("drawing loop opened", extra={"device": str(device), "dtype": str(formats.predicting), "threads": torch.get_num_threads()})
    return DrawingLoop(
        Residency(models.checkpoint, memory, sizes.model, versions.model),
        max_batch_pixels=batch_pixels,
        max_batch_rows=options.max_batch_rows,
        control_nets=Residency(models.control_net, memory, sizes.control_net, versions.control_net),
        upscalers=Residency(models.upscaler, memory, sizes.upscaler, versions.upscaler),
        translations=Translations(assets.translators, memory, device=device, dtype=formats.pictures),
        safety=SafetyStage(assets.safety, memory, device=device),
        faces=FaceShelf(assets, memory, device=device),
        release_memory=_release_memory,
        close_device=(lambda: None) if compiler is None else compiler.close,
        pacing=open_pacing(device, formats, max_rows=options.max_batch_rows, path=options.profile_path, quantize=options.quantize),
        decoding_beside=decoding_beside(device),
    )


def _compiler(device: torch.device, options: DeviceOptions) -> Compiler | None:
    """None where forwards are run as the networks are written."""
    if options.compiled_dir is None:
        return None
    if not options.compiles_what_pays:
        return Compiler(options.compiled_dir)
    # On CUDA nobody has measured yet what it gives beside recordings.
    if device.type == "cuda" or not can_compile() or (memory_limit_bytes() or 0) < _LEAST_BYTES_TO_COMPILE:
        return None
    return Compiler(options.compiled_dir, pays_after_s=_PAYS_AFTER_S)


def _host_tier(device: torch.device, budget_bytes: int) -> HostTier | None:
    """None where models that leave are forgotten."""
    if device.type != "cuda":
        return None
    if budget_bytes < 0:
        budget_bytes = (memory_limit_bytes() or 0) // _HOST_SHARE
    return HostTier(budget_bytes, CudaTransfers(device)) if budget_bytes else None


def _release_memory() -> None:
    gc.collect()  # some networks refer to themselves in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # The C library keeps what was freed for its next allocations; models are loaded in pieces of which few would fit in there.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
