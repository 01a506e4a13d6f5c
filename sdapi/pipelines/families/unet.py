"""SD 1.x: encode, prepare rows, one joint forward over rows of different users, decode.

Follows `StableDiffusionPipeline`, its img2img and its inpainting sibling of diffusers in the order of random draws and in arithmetic,
so that a lone row gives their picture for the same seed (`tests/pipelines/test_equals_diffusers.py` says how closely).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import Assets
from sdapi.domain.control_maps import control_map_of
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.additions import AdditionShelves
from sdapi.pipelines.annotators import control_map
from sdapi.pipelines.controlnets import Control, ControlNetwork, Sample, joint_residuals
from sdapi.pipelines.inpainting import LatentBlend, latent_mask, pixel_mask, pixel_paste
from sdapi.pipelines.loader import Sd1Components
from sdapi.pipelines.loras import applied
from sdapi.pipelines.prompts import PromptEncoder
from sdapi.pipelines.row import BatchKey, Row
from sdapi.pipelines.samplers import Sampler

_LATENT_SCALE = 8
_LATENT_CHANNELS = 4
_PREVIEW_LATENTS = 32
"""Longest side of what a preview decodes (256 px): enough to see what it becomes, and little work beside a step."""

_INPAINTING_CHANNELS = 9
"""Of a UNet that takes noisy latents, a mask and the encoded picture without the masked part."""


@dataclass(frozen=True)
class _InpaintingStart:
    """See the fields of Row."""

    latents: Tensor
    blend: LatentBlend | None
    shown: Tensor | None


class UnetModel:
    """One loaded SD 1.x checkpoint; for use from the device thread only."""

    def __init__(self, model_id: str, parts: Sd1Components, assets: Assets | None = None) -> None:
        """`assets` are what requests may add to the model; None: nothing."""
        self._id = model_id
        self._parts = parts
        self._prompts = PromptEncoder(parts.tokenizer, parts.text_encoder)
        self._additions = AdditionShelves(model_id, parts, assets)
        self._device: torch.device = parts.unet.device
        self._dtype: torch.dtype = parts.unet.dtype
        self._is_shown_masks = parts.unet.config.in_channels == _INPAINTING_CHANNELS

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._parts.bytes

    @torch.inference_mode()
    def prepare(
        self,
        request: Txt2Img | Img2Img | Inpaint | ControlNet,
        init_image: Image.Image | None,
        mask_image: Image.Image | None = None,
        control_image: Image.Image | None = None,
        control_nets: Sequence[ControlNetwork] = (),
    ) -> list[Row]:
        """One row per sample, ready for its first step. The pictures have the request's size; `mask_image` is L.

        `control_nets` are those the request names, in its order. Raises ModelBroken when one doesn't fit this model.
        """
        leading = init_image if control_image is None else control_image
        if isinstance(request, ControlNet) and not request.draws_over_init_image:
            init_image = mask_image = None
        added = self._additions.of(request)
        chunks = max(self._prompts.chunk_count(prompt, added.changes) for prompt in (added.prompt, added.negative_prompt))
        encoding = partial(self._prompts.encode, chunks=chunks, clip_skip=request.clip_skip, changes=added.changes)
        context = encoding(added.prompt)
        negative = encoding(added.negative_prompt) if request.guidance_scale > 1 else None
        key = BatchKey(self._id, request.height // _LATENT_SCALE, request.width // _LATENT_SCALE, context.shape[0])
        paste = pixel_paste(init_image, mask_image) if init_image is not None and mask_image is not None else None
        rows = []
        for sample in range(request.samples):
            generator = torch.Generator("cpu").manual_seed((request.seed + sample) % 2**32)
            strength = None if isinstance(request, Txt2Img) or init_image is None else request.strength
            sampler = Sampler(
                self._parts.scheduler_config,
                request.scheduler,
                steps=request.steps,
                strength=strength,
                use_karras_sigmas=request.use_karras_sigmas,
                algorithm_type=request.algorithm_type,
            )
            if mask_image is None and not self._is_shown_masks:
                latents = self._first_latents(key, sampler, generator, init_image, added.vae)
                rows.append(Row(key, latents, sampler, generator, context, negative, request.guidance_scale))
                continue
            start = self._inpainting_start(key, sampler, generator, init_image, mask_image, strength, added.vae)
            row = Row(key, start.latents, sampler, generator, context, negative, request.guidance_scale, start.blend, paste, start.shown)
            rows.append(row)
        for row in rows:
            row.loras, row.vae = added.loras, added.vae
        if isinstance(request, ControlNet) and leading is not None:
            for sample, row in enumerate(rows):
                row.controls = self._controls(request, leading, mask_image, control_nets, seed=(request.seed + sample) % 2**32)
        return rows

    def _controls(
        self,
        request: ControlNet,
        leading: Image.Image,
        mask_image: Image.Image | None,
        control_nets: Sequence[ControlNetwork],
        *,
        seed: int,
    ) -> tuple[Control, ...]:
        kind = control_map_of(request.controlnet_type) if request.auto_hint and request.controlnet_type is not None else None
        hint = control_map(kind, leading, seed=seed, mask=mask_image)
        controls = []
        for network, scale in zip(control_nets, request.scale_of_each_net, strict=True):
            network.check_fits(self._parts.unet, self._id)
            controls.append(Control(network, network.encoded(hint), scale, request.guess_mode))
        return tuple(controls)

    def _first_latents(
        self, key: BatchKey, sampler: Sampler, generator: torch.Generator, init_image: Image.Image | None, vae: Any
    ) -> Tensor:
        shape = (1, 4, key.latent_height, key.latent_width)
        if init_image is None:
            noise = torch.randn(shape, generator=generator, dtype=self._dtype)
            return noise.to(self._device) * sampler.initial_noise_sigma
        # The draw from the encoder's posterior comes before the noise, as in diffusers.
        clean = self._encoded(self._pixels(init_image), generator, vae)
        noise = torch.randn(shape, generator=generator, dtype=self._dtype).to(self._device)
        return sampler.add_noise(clean, noise)

    def _inpainting_start(
        self,
        key: BatchKey,
        sampler: Sampler,
        generator: torch.Generator,
        init_image: Image.Image | None,
        mask_image: Image.Image | None,
        strength: float | None,
        vae: Any,
    ) -> _InpaintingStart:
        """As diffusers' inpainting pipeline begins. An inpainting model that is given no mask draws all of the picture anew.

        Random draws come in this order: the picture's posterior, where it is used, the noise, the masked picture's posterior.
        """
        size_px = (key.latent_height * _LATENT_SCALE, key.latent_width * _LATENT_SCALE)
        pixels = torch.zeros(1, 3, *size_px, device=self._device, dtype=self._dtype) if init_image is None else self._pixels(init_image)
        is_pure_noise = strength is None or strength == 1
        clean = None if self._is_shown_masks and is_pure_noise else self._encoded(pixels, generator, vae)
        noise = torch.randn((1, 4, key.latent_height, key.latent_width), generator=generator, dtype=self._dtype).to(self._device)
        latents = noise * sampler.initial_noise_sigma if clean is None or is_pure_noise else sampler.add_noise(clean, noise)
        mask = Image.new("L", size_px[::-1], 255) if mask_image is None else mask_image
        repainted = latent_mask(mask, cell_px=_LATENT_SCALE).to(self._device, self._dtype)
        if self._is_shown_masks:
            masked = self._encoded(pixels * (1 - pixel_mask(mask)).to(self._device, self._dtype), generator, vae)
            return _InpaintingStart(latents, blend=None, shown=torch.cat([repainted, masked], dim=1))
        assert clean is not None  # noqa: S101 - encoded for every model that is shown no masks
        # diffusers encodes the masked picture for these models too, without a use for it: the draw alone is wanted.
        torch.randn(clean.shape, generator=generator, dtype=self._dtype)
        return _InpaintingStart(latents, blend=LatentBlend(clean, noise, repainted), shown=None)

    def _encoded(self, pixels: Tensor, generator: torch.Generator, vae: Any) -> Tensor:
        clean: Tensor = vae.encode(pixels).latent_dist.sample(generator=generator) * vae.config.scaling_factor
        return clean

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
        samples: list[Sample] = []
        for row in rows:
            scaled = row.sampler.model_input(row.latents)
            if row.shown is not None:
                scaled = torch.cat([scaled, row.shown], dim=1)
            halves = [row.context] if row.negative_context is None else [row.negative_context, row.context]
            for place, half in enumerate(halves, start=1):
                inputs.append(scaled)
                contexts.append(half)
                times.append(float(row.sampler.timestep))
                samples.append(Sample(row.controls, is_unconditional=place < len(halves)))
        timesteps = torch.tensor(times, device=self._device, dtype=torch.float32)
        together, words = torch.cat(inputs), torch.stack(contexts)
        # Control nets know nothing of the channels in which inpainting models are shown masks.
        levels = joint_residuals(samples, together[:, :_LATENT_CHANNELS], timesteps, words)
        led = {} if levels is None else {"down_block_additional_residuals": levels[:-1], "mid_block_additional_residual": levels[-1]}
        with applied(self._parts.unet, "unet", [row.loras for row in rows for _ in range(row.forwards)]):
            output: Tensor = self._parts.unet(together, timesteps, words, **led, return_dict=False)[0]
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
        if row.blend is not None:
            row.latents = row.blend.blended(row.latents, row.sampler)

    @torch.inference_mode()
    def decode(self, row: Row) -> Image.Image:
        """The finished row's picture, RGB. Raises ArithmeticError when the latents are not numbers any more."""
        if not torch.isfinite(row.latents).all():
            raise ArithmeticError("the latents overflowed")
        drawn = self._decoded(row.latents, row.vae)
        return drawn if row.paste is None else row.paste.pasted(drawn)

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
        return self._decoded(clean, row.vae)

    def clear_caches(self) -> int:
        """Forget what could be made again; how many bytes it took."""
        return self._prompts.clear_cache() + self._additions.clear()

    def _decoded(self, latents: Tensor, chosen: Any) -> Image.Image:
        vae = self._parts.vae if chosen is None else chosen
        decoded: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        pixels = (decoded / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
        return Image.fromarray((pixels * 255).round().astype(np.uint8))
