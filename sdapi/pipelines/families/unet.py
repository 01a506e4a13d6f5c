"""Stable Diffusion 1.x, 2.x and XL: encode, prepare rows, one joint forward over rows of different users, decode.

Follows `StableDiffusionPipeline`, its img2img and its inpainting sibling of diffusers in the order of random draws and in arithmetic,
so that a lone row gives their picture for the same seed (`tests/pipelines/test_equals_diffusers.py` says how closely).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import Assets
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.domain.highres import STRENGTH
from sdapi.pipelines.added.additions import AdditionShelves
from sdapi.pipelines.added.loras import Applied
from sdapi.pipelines.control.control_hints import controls_of
from sdapi.pipelines.control.controlnets import Control, ControlNetwork, Sample
from sdapi.pipelines.forwards.control_forwards import ControlForwards
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, conditions_of
from sdapi.pipelines.forwards.overlay import Overlay
from sdapi.pipelines.forwards.text_keys import text_keys_of
from sdapi.pipelines.forwards.unet_forward import ForwardOptions, forwards_of, recorder_on
from sdapi.pipelines.guidance.halves import Half, Words
from sdapi.pipelines.guidance.highres import first_drawing
from sdapi.pipelines.guidance.inpainting import pixel_paste
from sdapi.pipelines.guidance.joint_guidance import guided_together
from sdapi.pipelines.guidance.panorama import predict_in_windows, window_of
from sdapi.pipelines.guidance.perturbed_attention import perturbation_scale
from sdapi.pipelines.guidance.starts import Starts
from sdapi.pipelines.latents.unet_decoding import UnetDecoder
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.loading.placement import device_of, dtype_of
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.host_tier import Packed
from sdapi.pipelines.memory.leases import Held, HeldTogether
from sdapi.pipelines.quantizing.stored_weights import is_quantized
from sdapi.pipelines.samplers.joint_steps import advance_rows
from sdapi.pipelines.samplers.plan_cache import Plans
from sdapi.pipelines.samplers.planned_samplers import AnySampler
from sdapi.pipelines.samplers.row_sums import brought
from sdapi.pipelines.scheduling.row import BatchKey, NextPhase, Row
from sdapi.pipelines.trained_maps.shelf import AnnotatorShelf
from sdapi.pipelines.words.prompts import PromptEncoder

_LATENT_SCALE = 8
_USUAL_LATENTS = 64
"""Side of what models were trained on that don't say it: Stable Diffusion 1's."""


class UnetModel:
    """One loaded checkpoint of these families; for use from the device thread only."""

    def __init__(
        self,
        model_id: str,
        parts: UnetComponents,
        assets: Assets | None = None,
        memory: Memory | None = None,
        annotators: AnnotatorShelf | None = None,
        forwarding: ForwardOptions | None = None,
        plans: Callable[[Mapping[str, Any]], Plans] = Plans,
    ) -> None:
        """`assets` are what requests may add to the model; None: nothing. They share `memory` with all models; None: no limit.

        `annotators` are shared by all models; None: there are none. `forwarding` is how the UNet is run; None: as it is by default.
        `plans` are those of a scheduler config; they may be shared with other models of the device.
        """
        self._id = model_id
        self._parts = parts
        self._again = partial(UnetModel, model_id, parts, assets, memory, annotators, forwarding, plans)
        self._own_processors: dict[str, Any] = dict(parts.unet.attn_processors)
        self._prompts = PromptEncoder(
            parts.tokenizer,
            parts.text_encoder,
            parts.tokenizer_2,
            parts.text_encoder_2,
            has_zeros_for_empty_prompt=parts.has_zeros_for_empty_prompt,
        )
        self._additions = AdditionShelves(model_id, parts, assets, memory)
        self._device = device_of(parts.unet)
        self._annotators = annotators or AnnotatorShelf.empty(self._device)
        self._dtype = dtype_of(parts.unet)
        self._starts = Starts(parts)
        self._decoder = UnetDecoder(parts.vae)
        self._plans = plans(parts.scheduler_config)
        options = forwarding or ForwardOptions()
        self._is_deterministic = options.is_deterministic
        # Prompts that don't fit its memory are told as tokens, which depends on the neighbours.
        self._text_keys = None if options.is_deterministic else text_keys_of(parts.unet)
        self._forwards = forwards_of(parts.unet, options)
        recorder = None if options.is_deterministic else recorder_on(self._device, has_fixed_kernels=False)
        self._control_forwards = ControlForwards(recorder)

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._parts.bytes

    @property
    def is_quantized(self) -> bool:
        """See MayBeQuantized."""
        return is_quantized(self._parts.unet)

    def packed(self) -> Packed[UnetModel]:
        """See CanReturn. Recordings, encoded prompts, plans and what requests added go with this object; the next one makes its own."""
        self._parts.unet.set_attn_processor(dict(self._own_processors))
        return Packed(self._parts.networks, self._again)

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

    def _sampler(self, request: Txt2Img | Img2Img | Inpaint | ControlNet, strength: float | None) -> AnySampler:
        return self._plans.sampler(
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
        is_plain = all(_is_plain(row) for row in rows)
        if self._is_deterministic and not is_plain and len(rows) > 1:
            return self._predict_apart(rows)
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
        timesteps = brought(torch.tensor(times, dtype=torch.float32), self._device)
        together, words = torch.cat(inputs).to(self._dtype), [half.words for half in halves]
        keys = None if self._text_keys is None else self._text_keys.of(words, loras)
        context = torch.stack([each.context for each in words]) if keys is None else keys
        told = ForwardInputs(together, timesteps, context, *conditions_of(words, together))
        if is_plain:
            output = self._forwards.predict(told)
        else:
            overlay = Overlay(self._parts.unet, rows[0].key, loras, [half.is_perturbed for half in halves])
            led = replace(told, residuals=self._control_forwards.residuals(samples, told, words))
            output = self._forwards.predict_under(overlay, led)
        return guided_together(rows, output)

    def _predict_apart(self, rows: Sequence[Row]) -> list[Tensor]:
        """Those that share a forward by themselves: what is laid over one works on some of its samples, whose number would show."""
        plain = [row for row in rows if _is_plain(row)]
        shared = iter(self.predict(plain) if plain else ())
        return [next(shared) if _is_plain(row) else self.predict([row])[0] for row in rows]

    @torch.inference_mode()
    def advance(self, row: Row, predicted: Tensor) -> None:
        """One denoising step of one row."""
        (trouble,) = advance_rows([row], [predicted])
        if trouble is not None:
            raise trouble

    @torch.inference_mode()
    def advance_together(self, rows: Sequence[Row], predictions: Sequence[Tensor]) -> list[Exception | None]:
        """See AdvancesTogether."""
        return advance_rows(rows, predictions)

    @property
    def native_px(self) -> tuple[int, int]:
        """See SharesForwards."""
        trained = self._parts.unet.config.get("sample_size") or _USUAL_LATENTS
        height, width = (trained, trained) if isinstance(trained, int) else trained
        return width * _LATENT_SCALE, height * _LATENT_SCALE

    def decode(self, row: Row) -> Image.Image:
        """The finished row's picture, RGB. Raises ArithmeticError when the latents are not numbers any more."""
        return self._decoder.decode(row)

    def decode_group(self, row: Row) -> Hashable | None:
        """See SharesForwards."""
        # Together they are decoded a little differently, as they are drawn.
        return None if self._is_deterministic else self._decoder.group(row)

    def decode_together(self, rows: Sequence[Row]) -> list[Image.Image]:
        """See SharesForwards."""
        return self._decoder.decode_together(rows)

    def preview(self, row: Row, predicted: Tensor) -> Image.Image:
        """What the row is about to become, by the noise just predicted for it, RGB, at most 256 px long. Changes nothing of the row."""
        return self._decoder.preview(row, predicted)

    def clear_caches(self) -> int:
        """Forget what could be made again; how many bytes it took."""
        keys_bytes = 0 if self._text_keys is None else self._text_keys.clear()
        freed = self._prompts.clear_cache() + self._additions.clear() + self._annotators.clear()
        return freed + keys_bytes + self._forwards.clear() + self._control_forwards.clear()


def _is_plain(row: Row) -> bool:
    """Whether its forward is that of the network alone, with nothing laid over it."""
    has_loras = any(use.strength and use.lora.unet for use in row.loras)
    return not (row.controls or has_loras or row.perturbation_scale is not None or row.key.merges_tokens)
