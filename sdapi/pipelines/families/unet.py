"""Stable Diffusion 1.x, 2.x and XL: encode, prepare rows, one joint forward over rows of different users, decode.

Follows `StableDiffusionPipeline`, its img2img and its inpainting sibling of diffusers in the order of random draws and in arithmetic,
so that a lone row gives their picture for the same seed (`tests/pipelines/test_equals_diffusers.py` says how closely).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import Assets
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.domain.highres import STRENGTH
from sdapi.pipelines.additions import AdditionShelves
from sdapi.pipelines.control_hints import controls_of
from sdapi.pipelines.controlnets import Control, ControlNetwork, Sample, joint_residuals
from sdapi.pipelines.halves import Half, Words
from sdapi.pipelines.highres import enter_next_phase, first_drawing
from sdapi.pipelines.inpainting import pixel_paste
from sdapi.pipelines.latent_space import decoded
from sdapi.pipelines.leases import Held, HeldTogether
from sdapi.pipelines.loader import UnetComponents
from sdapi.pipelines.loras import Applied, applied
from sdapi.pipelines.memory import Memory
from sdapi.pipelines.panorama import decoded_in_the_round, predict_in_windows, window_of
from sdapi.pipelines.perturbed_attention import perturbation_scale, perturbed
from sdapi.pipelines.prompts import PromptEncoder
from sdapi.pipelines.row import BatchKey, NextPhase, Row
from sdapi.pipelines.samplers import Sampler
from sdapi.pipelines.starts import Starts
from sdapi.pipelines.token_merging import merging
from sdapi.pipelines.trained_maps.shelf import AnnotatorShelf

_LATENT_SCALE = 8
_LATENT_CHANNELS = 4
_PREVIEW_LATENTS = 32
"""Longest side of what a preview decodes (256 px): enough to see what it becomes, and little work beside a step."""


class UnetModel:
    """One loaded checkpoint of these families; for use from the device thread only."""

    def __init__(
        self,
        model_id: str,
        parts: UnetComponents,
        assets: Assets | None = None,
        memory: Memory | None = None,
        annotators: AnnotatorShelf | None = None,
    ) -> None:
        """`assets` are what requests may add to the model; None: nothing. They share `memory` with all models; None: no limit.

        `annotators` are shared by all models; None: there are none.
        """
        self._id = model_id
        self._parts = parts
        self._prompts = PromptEncoder(
            parts.tokenizer,
            parts.text_encoder,
            parts.tokenizer_2,
            parts.text_encoder_2,
            has_zeros_for_empty_prompt=parts.has_zeros_for_empty_prompt,
        )
        self._additions = AdditionShelves(model_id, parts, assets, memory)
        self._device: torch.device = parts.unet.device
        self._annotators = annotators or AnnotatorShelf.empty(self._device)
        self._dtype: torch.dtype = parts.unet.dtype
        self._starts = Starts(parts)

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._parts.bytes

    def additions(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Held:
        """What the request adds to the model, and what makes its control map, to be read before `prepare`, which otherwise waits for it.

        Raises InvalidRequest.
        """
        annotator = self._annotators.lease(request)
        additions = self._additions.leases(request)
        return additions if annotator is None else HeldTogether(additions, annotator)

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
        if request.highres_fix:
            return self._prepare_in_two_phases(request, init_image if control_image is None else control_image, control_nets)
        perturbation = perturbation_scale(self._parts.unet, self._id) if request.self_attention else None
        leading = init_image if control_image is None else control_image
        if isinstance(request, ControlNet) and not request.draws_over_init_image:
            init_image = mask_image = None
        added = self._additions.of(request)
        chunks = max(self._prompts.chunk_count(prompt, added.changes) for prompt in (added.prompt, added.negative_prompt))
        clip_skip, changes = request.clip_skip, added.changes
        prompts = self._prompts.encode_joined(added.prompt, chunks=chunks, clip_skip=clip_skip, changes=changes)
        # Prompts that were joined are weighed against the negative one even without guidance.
        is_guided = request.guidance_scale > 1 or len(prompts) > 1
        negative: Words | None = None
        if is_guided:
            negative = self._prompts.encode_negative(added.negative_prompt, chunks=chunks, clip_skip=clip_skip, changes=changes)
        tokens = prompts[0].words.context.shape[0]
        key = BatchKey(self._id, request.height // _LATENT_SCALE, request.width // _LATENT_SCALE, tokens, request.token_merging)
        paste = pixel_paste(init_image, mask_image) if init_image is not None and mask_image is not None else None
        rows = []
        for sample in range(request.samples):
            generator = torch.Generator("cpu").manual_seed((request.seed + sample) % 2**32)
            strength = None if isinstance(request, Txt2Img) or init_image is None else request.strength
            sampler = self._sampler(request, strength)
            if mask_image is None and not self._starts.is_shown_masks:
                start = self._starts.plain(key, sampler, generator, init_image, added.vae)
            else:
                start = self._starts.inpainting(key, sampler, generator, init_image, mask_image, strength, added.vae)
            row = Row(key, start.latents, sampler, generator, prompts, negative, request.guidance_scale, start.blend, paste, start.shown)
            rows.append(row)
        for row in rows:
            row.loras, row.vae, row.perturbation_scale = added.loras, added.vae, perturbation
            if request.panorama:
                row.window = window_of(self._parts.unet, latent_height=key.latent_height, latent_width=key.latent_width)
                row.key = replace(key, latent_height=row.window.latent_height, latent_width=row.window.latent_width, is_panorama=True)
        if isinstance(request, ControlNet) and leading is not None:
            for row, controls in zip(rows, self._controls(request, leading, mask_image, control_nets), strict=True):
                row.controls = controls
        return rows

    def _controls(
        self, request: ControlNet, leading: Image.Image, mask_image: Image.Image | None, control_nets: Sequence[ControlNetwork]
    ) -> list[tuple[Control, ...]]:
        unet = self._parts.unet
        return controls_of(request, leading, mask_image, control_nets, self._annotators, unet=unet, model_id=self._id)

    def _prepare_in_two_phases(
        self, request: Txt2Img | Img2Img | Inpaint | ControlNet, leading: Image.Image | None, control_nets: Sequence[ControlNetwork]
    ) -> list[Row]:
        """See `highres.py`. `leading` is what control nets are shown, in each phase at its size."""
        first = first_drawing(request, self._parts.unet)
        small = None if leading is None else leading.resize((first.width, first.height), Image.Resampling.LANCZOS)
        rows = self.prepare(first, None, None, small, control_nets)
        controls: list[tuple[Control, ...]] = [()] * request.samples
        if isinstance(request, ControlNet) and leading is not None:
            controls = self._controls(request, leading, None, control_nets)
        for row, leads in zip(rows, controls, strict=True):
            key = replace(row.key, latent_height=request.height // _LATENT_SCALE, latent_width=request.width // _LATENT_SCALE)
            row.next_phase = NextPhase(key, self._sampler(request, STRENGTH), leads)
        return rows

    def _sampler(self, request: Txt2Img | Img2Img | Inpaint | ControlNet, strength: float | None) -> Sampler:
        return Sampler(
            self._parts.scheduler_config,
            request.scheduler,
            steps=request.steps,
            strength=strength,
            use_karras_sigmas=request.use_karras_sigmas,
            algorithm_type=request.algorithm_type,
        )

    @torch.inference_mode()
    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        """The guided noise prediction of each row at its own timestep, from one forward over all of them.

        All rows have one `BatchKey`. Changes no row, so that a forward which runs out of memory can be tried again in parts.
        """
        if rows[0].window is not None:
            return predict_in_windows(rows, self.predict)
        inputs: list[Tensor] = []
        halves: list[Half] = []
        times: list[float] = []
        loras: list[tuple[Applied, ...]] = []
        samples: list[Sample] = []
        for row in rows:
            scaled = row.sampler.model_input(row.latents)
            if row.shown is not None:
                scaled = torch.cat([scaled, row.shown], dim=1)
            for half in row.halves:
                inputs.append(scaled)
                halves.append(half)
                times.append(float(row.sampler.timestep))
                loras.append(row.loras)
                samples.append(Sample(row.controls, half.is_unconditional))
        timesteps = torch.tensor(times, device=self._device, dtype=torch.float32)
        together, words = torch.cat(inputs).to(self._dtype), torch.stack([half.words.context for half in halves])
        conditions = self._added_conditions(halves, together)
        # Control nets know nothing of the channels in which inpainting models are shown masks.
        levels = joint_residuals(samples, together[:, :_LATENT_CHANNELS], timesteps, words, conditions)
        led = {} if levels is None else {"down_block_additional_residuals": levels[:-1], "mid_block_additional_residual": levels[-1]}
        alone = [place for place, half in enumerate(halves) if half.is_perturbed]
        with applied(self._parts.unet, "unet", loras), perturbed(self._parts.unet, alone), merging(self._parts.unet, rows[0].key):
            output: Tensor = self._parts.unet(together, timesteps, words, added_cond_kwargs=conditions, **led, return_dict=False)[0]
        predictions: list[Tensor] = []
        at = 0
        for row in rows:
            end = at + len(row.halves)
            predictions.append(row.guided(output[at:end].float()))
            at = end
        return predictions

    def _added_conditions(self, halves: Sequence[Half], inputs: Tensor) -> dict[str, Tensor] | None:
        """What Stable Diffusion XL is told of each sample beside its tokens: the pooled prompt, and that the picture was never cropped."""
        pooled = [half.words.pooled for half in halves if half.words.pooled is not None]
        if not pooled:
            return None
        height, width = (side * _LATENT_SCALE for side in inputs.shape[-2:])
        sizes = inputs.new_tensor([height, width, 0, 0, height, width])
        return {"text_embeds": torch.stack(pooled), "time_ids": sizes.expand(len(pooled), -1)}

    @torch.inference_mode()
    def advance(self, row: Row, predicted: Tensor) -> None:
        """One denoising step of one row."""
        row.latents = row.sampler.advance(predicted, row.latents, row.generator)
        if row.blend is not None:
            row.latents = row.blend.blended(row.latents, row.sampler)
        if row.next_phase is not None and row.sampler.finished:
            enter_next_phase(row)

    @torch.inference_mode()
    def decode(self, row: Row) -> Image.Image:
        """The finished row's picture, RGB. Raises ArithmeticError when the latents are not numbers any more."""
        if not torch.isfinite(row.latents).all():
            raise ArithmeticError("the latents overflowed")
        if row.window is not None:
            return decoded_in_the_round(row.latents, lambda latents: self._decoded(latents, row.vae))
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
        return self._prompts.clear_cache() + self._additions.clear() + self._annotators.clear()

    def _decoded(self, latents: Tensor, chosen: Any) -> Image.Image:
        vae = self._parts.vae if chosen is None else chosen
        pixels = (decoded(vae, latents) / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
        return Image.fromarray((pixels * 255).round().astype(np.uint8))
