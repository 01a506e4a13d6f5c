"""Builds the drawing loop of one device: what is chosen once, when the first picture is asked for."""

from __future__ import annotations

import gc
import logging
import warnings
from dataclasses import dataclass

import torch

from sdapi.catalog import Assets, Catalog, ModelBroken
from sdapi.domain.errors import ModelNotFound

from .controlnets import ControlNetwork
from .families.unet import UnetModel
from .loader import load_controlnet, load_sd1
from .loop import DrawingLoop, Model
from .residency import Residency

_log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class DeviceOptions:
    """How to use the device."""

    device: str
    """A torch device name, or "auto": CUDA where there is one, else the CPU."""
    dtype: str
    """float32, bfloat16, float16, or "auto": float16 on CUDA, float32 on the CPU."""
    threads: int
    """CPU threads; 0 leaves it to torch."""
    max_batch_rows: int
    model_cache_bytes: int


def open_loop(catalog: Catalog, assets: Assets, options: DeviceOptions) -> DrawingLoop:
    """The loop for that device, with no model loaded yet."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device)
    dtype = _DTYPES[options.dtype] if options.dtype != "auto" else torch.float16 if device.type == "cuda" else torch.float32
    if options.threads:
        torch.set_num_threads(options.threads)
    # numpy 2 warns of diffusers' schedulers at every step; nothing an operator could do about it.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"diffusers\..*")

    def load(model_id: str) -> Model:
        return UnetModel(model_id, load_sd1(catalog.get(model_id), device=device, dtype=dtype), assets)

    def load_net(net_id: str) -> ControlNetwork:
        try:
            asset = assets.get("controlnet", net_id)
        except ModelNotFound as error:
            raise ModelBroken(net_id, f"There is no control net named {net_id!r} any more.") from error
        return ControlNetwork(net_id, load_controlnet(asset, device=device, dtype=dtype))

    # SD 1.x at 512 px gains from 8 to 16 rows on a GPU; on CPU cores a larger batch only makes newcomers wait longer.
    batch_pixels = (16 if device.type == "cuda" else 4) * 512 * 512
    _log.info("drawing loop opened", extra={"device": str(device), "dtype": str(dtype), "threads": torch.get_num_threads()})
    return DrawingLoop(
        Residency(load, budget_bytes=options.model_cache_bytes),
        max_batch_pixels=batch_pixels,
        max_batch_rows=options.max_batch_rows,
        control_nets=Residency(load_net, budget_bytes=options.model_cache_bytes),
        release_memory=_release_memory,
    )


def _release_memory() -> None:
    gc.collect()  # diffusers' networks refer to themselves in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
