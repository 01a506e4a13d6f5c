"""SD 1.x: encode, prepare rows, one joint forward over rows of different users, decode.

Follows `StableDiffusionPipeline` and `StableDiffusionImg2ImgPipeline` of diffusers in the order of random draws and in arithmetic,
so that a lone row gives their picture for the same seed (`tests/pipelines/test_equals_diffusers.py` says how closely).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.generation import Img2Img, Txt2Img
from sdapi.pipelines.loader import Sd1Components
from sdapi.pipelines.prompts import PromptEncoder
from sdapi.pipelines.row import BatchKey, Row
from sdapi.pipelines.samplers import Sampler

_LATENT_SCALE = 8
_PREVIEW_LATENTS = 32
"""Longest side of what a preview decodes (256 px): enough to see what it becomes, and little work beside a step."""


class UnetModel:
    """One loaded SD 1.x checkpoint; for use from the device thread only."""

    def __init__(self, model_id: str, parts: Sd1Components) -> None:
        self._id = model_id
        self._parts = parts
        self._prompts = PromptEncoder(parts.tokenizer, parts.text_encoder)
        self._device: torch.device = parts.unet.device
        self._dtype: torch.dtype = parts.unet.dtype

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._parts.bytes

    @torch.inference_mode()
    def prepare(self, request: Txt2Img | Img2Img, init_image: Image.Image | None) -> list[Row]:
        """One row per sample, ready for its first step. `init_image` has the request's size."""
        chunks = max(self._prompts.chunk_count(request.prompt), self._prompts.chunk_count(request.negative_prompt))
        context = self._prompts.encode(request.prompt, chunks=chunks, clip_skip=request.clip_skip)
        guided = request.guidance_scale > 1
        negative = self._prompts.encode(request.negative_prompt, chunks=chunks, clip_skip=request.clip_skip) if guided else None
        key = BatchKey(self._id, request.height // _LATENT_SCALE, request.width // _LATENT_SCALE, context.shape[0])
        rows = []
        for sample in range(request.samples):
            generator = torch.Generator("cpu").manual_seed((request.seed + sample) % 2**32)
            strength = request.strength if isinstance(request, Img2Img) else None
            sampler = Sampler(
                self._parts.scheduler_config,
                request.scheduler,
                steps=request.steps,
                strength=strength,
                use_karras_sigmas=request.use_karras_sigmas,
            )
            latents = self._first_latents(key, sampler, generator, init_image)
            rows.append(Row(key, latents, sampler, generator, context, negative, request.guidance_scale))
        return rows

    def _first_latents(self, key: BatchKey, sampler: Sampler, generator: torch.Generator, init_image: Image.Image | None) -> Tensor:
        shape = (1, 4, key.latent_height, key.latent_width)
        if init_image is None:
            noise = torch.randn(shape, generator=generator, dtype=self._dtype)
            return noise.to(self._device) * sampler.initial_noise_sigma
        # The draw from the encoder's posterior comes before the noise, as in diffusers.
        posterior = self._parts.vae.encode(self._pixels(init_image)).latent_dist
        clean = posterior.sample(generator=generator) * self._parts.vae.config.scaling_factor
        noise = torch.randn(shape, generator=generator, dtype=self._dtype).to(self._device)
        return sampler.add_noise(clean, noise)

    def _pixels(self, image: Image.Image) -> Tensor:
        array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
        return (2.0 * torch.from_numpy(array).permute(2, 0, 1)[None] - 1.0).to(self._device, self._dtype)

    @torch.inference_mode()
    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        """The guided noise prediction of each row at its own timestep, from one forward over all of them.

        All rows have one `BatchKey`. Changes no row, so that a forward which runs out of memory can be tried again in parts.
        """
        inputs: list[Tensor] = []
        contexts: list[Tensor] = []
        times: list[float] = []
        for row in rows:
            scaled = row.sampler.model_input(row.latents)
            halves = [row.context] if row.negative_context is None else [row.negative_context, row.context]
            for half in halves:
                inputs.append(scaled)
                contexts.append(half)
                times.append(float(row.sampler.timestep))
        timesteps = torch.tensor(times, device=self._device, dtype=torch.float32)
        output: Tensor = self._parts.unet(torch.cat(inputs), timesteps, torch.stack(contexts), return_dict=False)[0]
        predictions: list[Tensor] = []
        at = 0
        for row in rows:
            mine = output[at : at + row.forwards]
            at += row.forwards
            predictions.append(mine if row.forwards == 1 else mine[:1] + row.guidance_scale * (mine[1:] - mine[:1]))
        return predictions

    @torch.inference_mode()
    def advance(self, row: Row, predicted: Tensor) -> None:
        """One denoising step of one row."""
        row.latents = row.sampler.advance(predicted, row.latents, row.generator)

    @torch.inference_mode()
    def decode(self, row: Row) -> Image.Image:
        """The finished row's picture, RGB. Raises ArithmeticError when the latents are not numbers any more."""
        if not torch.isfinite(row.latents).all():
            raise ArithmeticError("the latents overflowed")
        return self._decoded(row.latents)

    @torch.inference_mode()
    def preview(self, row: Row, predicted: Tensor) -> Image.Image:
        """What the row is about to become, by the noise just predicted for it, RGB, at most 256 px long. Changes nothing of the row."""
        clean = row.sampler.denoised(predicted, row.latents)
        if not torch.isfinite(clean).all():
            raise ArithmeticError("the latents overflowed")
        height, width = clean.shape[-2:]
        shrink = max(height, width) / _PREVIEW_LATENTS
        if shrink > 1:
            smaller = (max(1, round(height / shrink)), max(1, round(width / shrink)))
            clean = torch.nn.functional.adaptive_avg_pool2d(clean, smaller)
        return self._decoded(clean)

    def clear_caches(self) -> int:
        """Forget what could be made again; how many bytes it took."""
        return self._prompts.clear_cache()

    def _decoded(self, latents: Tensor) -> Image.Image:
        decoded: Tensor = self._parts.vae.decode(latents / self._parts.vae.config.scaling_factor, return_dict=False)[0]
        pixels = (decoded / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
        return Image.fromarray((pixels * 255).round().astype(np.uint8))
