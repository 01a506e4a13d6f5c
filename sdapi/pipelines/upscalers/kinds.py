"""The two kinds of upscalers, and of pictures on their way through them."""

from __future__ import annotations

from .diffusion import DiffusionUpscaler
from .enlarging import Enlarging
from .model import UpscalerModel
from .repainting import Repainting

Upscaler = UpscalerModel | DiffusionUpscaler
AnyEnlarging = Enlarging | Repainting
"""Each belongs to the upscaler that began it."""
