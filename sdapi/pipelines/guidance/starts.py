"""What rows start from: noise, a noised picture, or for inpainting a picture of which only a part is drawn anew.

Random draws come in the order in which diffusers' pipelines make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.pipelines.guidance.inpainting import LatentBlend, latent_mask, pixel_mask
from sdapi.pipelines.latents.latent_space import encoded
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.loading.placement import device_of, dtype_of
from sdapi.pipelines.samplers.planned_samplers import AnySampler
from sdapi.pipelines.scheduling.row import BatchKey

_LATENT_SCALE = 8

LATENTS_DTYPE = torch.float32
"""Of rows, whatever format the UNet computes in: a sampler's many small steps would gather the rounding of eight or eleven bits.

Noise drawn in it is also the same on every device and in every format, so that a seed keeps its picture.
"""

_INPAINTING_CHANNELS = 9
"""Of a UNet that takes noisy latents, a mask and the encoded picture without the masked part."""


@dataclass(frozen=True)
class Start:
    """See the fields of Row."""

    latents: Tensor
    blend: LatentBlend | None = None
    shown: Tensor | None = None


class Starts:
    """Of one loaded model; for use from the device thread only."""

    def __init__(self, parts: UnetComponents) -> None:
        self._device = device_of(parts.unet)
        self._vae_dtype = dtype_of(parts.vae)
        self.is_shown_masks: bool = parts.unet.config.in_channels == _INPAINTING_CHANNELS
        """Whether all of the model's rows start as those of inpainting do."""

    def plain(self, key: BatchKey, sampler: AnySampler, generator: torch.Generator, init_image: Image.Image | None, vae: Any) -> Start:
        """As diffusers' pipelines for words, and for words and a picture, begin."""
        shape = (1, 4, key.latent_height, key.latent_width)
        if init_image is None:
            noise = torch.randn(shape, generator=generator, dtype=LATENTS_DTYPE)
            return Start(noise.to(self._device) * sampler.initial_noise_sigma)
        # The draw from the encoder's posterior comes before the noise, as in diffusers.
        clean = encoded(vae, self._pixels(init_image), generator, dtype=LATENTS_DTYPE)
        noise = torch.randn(shape, generator=generator, dtype=LATENTS_DTYPE).to(self._device)
        return Start(sampler.add_noise(clean, noise))

    def inpainting(
        self,
        key: BatchKey,
        sampler: AnySampler,
        generator: torch.Generator,
        init_image: Image.Image | None,
        mask_image: Image.Image | None,
        strength: float | None,
        vae: Any,
    ) -> Start:
        """As diffusers' inpainting pipeline begins. An inpainting model that is given no mask draws all of the picture anew.

        Random draws come in this order: the picture's posterior, where it is used, the noise, the masked picture's posterior.
        """
        size_px = (key.latent_height * _LATENT_SCALE, key.latent_width * _LATENT_SCALE)
        pixels = torch.zeros(1, 3, *size_px, device=self._device, dtype=self._vae_dtype) if init_image is None else self._pixels(init_image)
        is_pure_noise = strength is None or strength == 1
        clean = None if self.is_shown_masks and is_pure_noise else encoded(vae, pixels, generator, dtype=LATENTS_DTYPE)
        noise = torch.randn((1, 4, key.latent_height, key.latent_width), generator=generator, dtype=LATENTS_DTYPE).to(self._device)
        latents = noise * sampler.initial_noise_sigma if clean is None or is_pure_noise else sampler.add_noise(clean, noise)
        mask = Image.new("L", size_px[::-1], 255) if mask_image is None else mask_image
        repainted = latent_mask(mask, cell_px=_LATENT_SCALE).to(self._device, LATENTS_DTYPE)
        if self.is_shown_masks:
            kept = (1 - pixel_mask(mask)).to(pixels.device, pixels.dtype)
            masked = encoded(vae, pixels * kept, generator, dtype=LATENTS_DTYPE)
            return Start(latents, blend=None, shown=torch.cat([repainted, masked], dim=1))
        assert clean is not None  # noqa: S101 - encoded for every model that is shown no masks
        # diffusers encodes the masked picture for these models too, without a use for it: the draw alone is wanted.
        torch.randn(clean.shape, generator=generator, dtype=LATENTS_DTYPE)
        return Start(latents, blend=LatentBlend(clean, noise, repainted), shown=None)

    def _pixels(self, image: Image.Image) -> Tensor:
        array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
        return (2.0 * torch.from_numpy(array).permute(2, 0, 1)[None] - 1.0).to(self._device, self._vae_dtype)
