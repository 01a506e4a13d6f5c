"""How one device is used for drawing: what an operator chose, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .quantization import Quantize


@dataclass(frozen=True)
class DeviceOptions:
    """How to use the device."""

    device: str
    """A torch device name, or "auto": CUDA where there is one, else the CPU."""
    dtype: str
    """float32, bfloat16, float16 or "auto" (see `pipelines/forwards/number_formats.py`)."""
    threads: int
    """CPU threads; 0 leaves it to torch."""
    max_batch_rows: int
    model_cache_bytes: int
    unload_after_s: float = 0.0
    """What nobody has used for so long leaves memory; 0: it stays while there is room."""
    compiled_dir: Path | None = None
    """Where compiled forwards are kept; None: nothing is compiled."""
    compiles_what_pays: bool = False
    """Whether only such sizes are that have kept a CPU busy for minutes, where there is a C++ compiler; else all that come often."""
    is_deterministic: bool = False
    """Whether a picture is the same to the bit whatever is drawn beside it, at some cost: see `pipelines/forwards/unet_forward.py`."""
    owns_process: bool = False
    """Whether nothing else is done in this process, as in `sdapi serve`: what is there once the device is open stays to the end."""
    profile_path: Path | None = None
    """Where it is kept what forwards take on this device; None: it is learnt anew every time."""
    quantize: Quantize = "off"
    """In which eight bits the networks that draw are held, where they say the same then: see `pipelines/quantizing/`."""
    host_cache_bytes: int = 0
    """Of the host's memory for models that have left a CUDA device; -1: a quarter of what there is. On a CPU it is all the same memory."""
