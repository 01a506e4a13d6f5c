"""Any diffusers pipeline, called whole: Flux, Stable Diffusion 3, Qwen-Image, Z-Image and further ones.

Their loops know no way to be left and entered again, so each picture's call has a thread of its own, which runs only while the device
thread waits for its next step (`stepped_call.py`). So they take turns with all other models step by step, tell their progress, and
end within a step when they are cancelled. They share no forwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.families import WholeFamily, refusal
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.guidance.inpainting import PixelPaste, pixel_paste
from sdapi.pipelines.loading.whole_loader import WholeComponents, assembled
from sdapi.pipelines.memory.host_tier import Packed
from sdapi.pipelines.quantizing.stored_weights import is_quantized
from sdapi.pipelines.scheduling.row import BatchKey
from sdapi.pipelines.whole.stepped_call import Pause, SteppedCall
from sdapi.pipelines.whole.whole_arguments import (
    check_size,
    drawn_size,
    fitted,
    guidance_for,
    picture_arguments,
    size_arguments,
    step_arguments,
    step_count,
)
from sdapi.pipelines.whole.whole_preview import Noisy, noisy_latents, preview

_KEY_CELL_PX = 8


@dataclass(frozen=True)
class WholeKey(BatchKey):
    """Of one row alone: nothing shares its forwards."""

    number: int = 0


@dataclass
class WholeCourse:
    """Where a pipeline's call is."""

    name: str
    """Class name of the pipeline's own scheduler."""
    total: int
    """Steps; an estimate until the first is done."""
    position: int = 0

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken; decoding is left."""
        return self.position >= self.total


@dataclass
class Step:
    """What a pipeline told at the end of a step."""

    position: int
    total: int
    latents: Tensor | None
    """In the pipeline's own form, noisy."""
    noisy: Noisy | None = None
    """The same for a look at them; None where it can't be told what they lead to."""
    before: Noisy | None = None
    """At the end of the step before; None after the first."""


@dataclass
class WholeRow:
    """One picture of a pipeline that is called whole."""

    key: BatchKey
    sampler: WholeCourse
    forwards: int
    """What a step costs in forwards of a Stable Diffusion UNet: by the size of the network, doubled by guidance."""
    size: tuple[int, int]
    """Of the picture, in pixels."""
    drawn_size: tuple[int, int]
    """May be a little larger."""
    pipe: Any
    """The row's own pipeline around the shared networks."""
    paste: PixelPaste | None = None
    """What inpainting keeps of the pixels."""
    told: Step | None = None
    """At the end of the step before."""
    call: SteppedCall[Image.Image] = field(init=False)

    @property
    def steps_done(self) -> int:
        """See InFlight."""
        return self.sampler.position

    @property
    def steps(self) -> int:
        """See InFlight."""
        return self.sampler.total

    def close(self) -> None:
        """End the row's thread, wherever it is."""
        self.call.close()


class WholeModel:
    """One loaded pipeline; for use from the device thread only."""

    def __init__(self, model_id: str, family: WholeFamily, parts: WholeComponents) -> None:
        self._id = model_id
        self._family = family
        self._parts = parts
        self._numbers = itertools.count()

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._parts.bytes

    @property
    def is_quantized(self) -> bool:
        """See MayBeQuantized."""
        return is_quantized(self._parts.denoiser)

    def packed(self) -> Packed[WholeModel]:
        """See CanReturn: it keeps nothing but its networks."""
        return Packed(self._parts.networks, lambda: self)

    def additions(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> None:
        """See Model: these models take none, and `prepare` refuses requests that name some."""

    def prepare(
        self,
        request: Txt2Img | Img2Img | Inpaint | ControlNet,
        init_image: Image.Image | None,
        mask_image: Image.Image | None = None,
        control_image: Image.Image | None = None,  # noqa: ARG002 - no family takes control nets yet
        control_nets: Sequence[ControlNetwork] = (),  # noqa: ARG002
    ) -> list[WholeRow]:
        """One row per sample; nothing is computed yet. Raises InvalidRequest for what the family can't do."""
        if (refused := refusal(self._family, request)) is not None:
            raise InvalidRequest.of(*refused)
        return [self._row(request, sample, init_image, mask_image) for sample in range(request.samples)]

    def _row(
        self, request: Txt2Img | Img2Img | Inpaint | ControlNet, sample: int, init_image: Image.Image | None, mask_image: Image.Image | None
    ) -> WholeRow:
        pipe = assembled(self._parts, self._pipeline_class(request))
        size = drawn_size(pipe, request)
        check_size(self._family, pipe, request, size)
        guidance = guidance_for(self._family, pipe, request)
        arguments = {
            "prompt": request.prompt,
            "num_inference_steps": request.steps,
            **size_arguments(pipe, size),
            "generator": torch.Generator("cpu").manual_seed((request.seed + sample) % 2**32),
            **guidance.arguments,
            **picture_arguments(request, init_image, mask_image, size),
        }
        key = WholeKey(self._id, size[1] // _KEY_CELL_PX, size[0] // _KEY_CELL_PX, context_tokens=0, number=next(self._numbers))
        row = WholeRow(
            key=key,
            sampler=WholeCourse(type(pipe.scheduler).__name__, step_count(request)),
            forwards=self._parts.forwards_of_a_step * (2 if guidance.is_twofold else 1),
            size=(request.width, request.height),
            drawn_size=size,
            pipe=pipe,
            paste=pixel_paste(init_image, mask_image) if init_image is not None and mask_image is not None else None,
        )

        device = self._parts.device

        def draw(pause: Pause) -> Image.Image:
            def on_step(index: int, latents: Tensor | None) -> None:
                total = getattr(pipe, "_num_timesteps", None) or len(pipe.scheduler.timesteps)
                before = None if row.told is None else row.told.noisy
                row.told = Step(index + 1, int(total), latents, noisy_latents(pipe, latents), before)
                pause()

            if device.type == "cuda" and device.index is not None:
                torch.cuda.set_device(device)  # every thread has a current device of its own
            image: Image.Image = pipe(**arguments, **step_arguments(pipe, on_step)).images[0]
            return image

        row.call = SteppedCall(draw, name=f"sdapi-whole-{key.number}")
        return row

    def _pipeline_class(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Any:
        """Of the same parts: AutoPipeline's choice, which diffusers spells alike in all families that have one."""
        kind = {"img2img": "Img2ImgPipeline", "inpaint": "InpaintPipeline"}.get(request.kind, "Pipeline")
        return getattr(diffusers, self._parts.pipeline_class.__name__.removesuffix("Pipeline") + kind)

    def predict(self, rows: Sequence[WholeRow]) -> list[Step]:
        """Let each pipeline take its next step; the last comes back before it is decoded. Raises what the pipeline raised."""
        return [self._stepped(row) for row in rows]

    def _stepped(self, row: WholeRow) -> Step:
        row.call.advance()
        if row.call.ended or row.told is None:
            # It took fewer steps than it had said, or told of none.
            return Step(row.sampler.total, row.sampler.total, None)
        return row.told

    def advance(self, row: WholeRow, predicted: Step) -> None:
        """Count the step."""
        row.sampler.position, row.sampler.total = predicted.position, predicted.total

    def decode(self, row: WholeRow) -> Image.Image:
        """Let the pipeline finish: the picture, RGB, of the size asked for. Raises ArithmeticError when the latents are not numbers."""
        if row.told is not None and row.told.latents is not None and not torch.isfinite(row.told.latents).all():
            raise ArithmeticError("the latents overflowed")
        drawn = fitted(row.call.result().convert("RGB"), row.size)
        return drawn if row.paste is None else row.paste.pasted(drawn)

    def preview(self, row: WholeRow, predicted: Step) -> Image.Image | None:
        """What the row is about to become, RGB, at most 256 px long; None after the first step, and where it can't be told."""
        if predicted.noisy is None or predicted.before is None:
            return None
        return preview(self._family, row.pipe, predicted.before, predicted.noisy, row.drawn_size)

    def clear_caches(self) -> int:
        """See Model: nothing is kept."""
        return 0
