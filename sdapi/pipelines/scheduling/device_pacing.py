"""How a device is measured and decoded on: what differs between a CPU and CUDA is chosen here."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from sdapi.domain.quantization import Quantize
from sdapi.pipelines.forwards.cuda_device import CudaStopwatch, SideStream
from sdapi.pipelines.forwards.number_formats import NumberFormats
from sdapi.pipelines.scheduling.decoding import DecodingStage, ThreadedDecoding
from sdapi.pipelines.scheduling.flights import Ending
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.profile_file import ProfileFile
from sdapi.pipelines.scheduling.stopwatch import WallStopwatch
from sdapi.pipelines.scheduling.warm_up import WarmUp


def open_pacing(device: torch.device, formats: NumberFormats, *, max_rows: int, path: Path | None, quantize: Quantize = "off") -> Pacing:
    """What was learnt of the device and is kept at `path`, and what measures it; None for `path`: it begins with nothing.

    On a CPU models are not warmed up: a forward there is not slower the first time by so much as warming up would take.
    """
    file = None if path is None else ProfileFile(path, _made_with(device, formats, quantize))
    is_cuda = device.type == "cuda"
    return Pacing(
        StepProfile() if file is None else file.read(),
        file,
        CudaStopwatch(device) if is_cuda else WallStopwatch(),
        WarmUp(partial(torch.cuda.synchronize, device), max_rows=max_rows) if is_cuda else None,
    )


def decoding_beside(device: torch.device) -> Callable[[Callable[[], None]], DecodingStage[Ending]] | None:
    """Makes the stage that decodes while steps are taken; None where they take turns (see `decoding`)."""
    if device.type != "cuda":
        return None
    stream = SideStream(device)
    return lambda wake: ThreadedDecoding(wake, stream.after_what_was_asked, release=torch.cuda.empty_cache)


def _made_with(device: torch.device, formats: NumberFormats, quantize: Quantize) -> dict[str, str]:
    """What figures depend on."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "dtype": f"{formats.predicting} {formats.pictures}",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        **({} if quantize == "off" else {"quantize": quantize}),
    }
