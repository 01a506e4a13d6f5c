"""Diffusers' own upscalers, x4 and latent x2: pipelines that draw the larger picture, patch by patch and step by step.

Their loops are called as those of whole pipelines are (`stepped_call.py`). The picture is cut into patches that overlap, because what
one step takes in memory grows with its size; each patch starts from its place in one field of noise, so that neighbours tend alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import MAX_REPAINTED_PIXELS
from sdapi.pipelines.loading.whole_loader import WholeComponents, assembled
from sdapi.pipelines.memory.host_tier import Packed
from sdapi.pipelines.scheduling.row import BatchKey
from sdapi.pipelines.whole.stepped_call import Pause, SteppedCall
from sdapi.pipelines.whole.whole_arguments import step_arguments

from .overlaps import Mosaic, Patch, patches_of
from .repainting import Guide, PatchCourse, Repainting, Turn

_LATENT_CLASS = "StableDiffusionLatentUpscalePipeline"
_STEPS = {_LATENT_CLASS: 20}
_USUAL_STEPS = 50
_GUIDANCE = {_LATENT_CLASS: 1.0}
"""The latent one was made to be led by the picture; words only tell it what that shows."""
_USUAL_GUIDANCE = 9.0
_PATCH_RESULT_PX = {"cpu": 512, "cuda": 1024}
"""The side of what one patch becomes: decoding it takes most of the memory, as it does for drawings of that size."""


class DiffusionUpscaler:
    """One loaded upscaling pipeline; for use from the device thread only."""

    def __init__(self, upscaler_id: str, parts: WholeComponents, *, steps: int | None = None, patch_px: int | None = None) -> None:
        """`patch_px` is the longest side of a patch of the input; None: what the device takes well."""
        self._id = upscaler_id
        self._parts = parts
        name = parts.pipeline_class.__name__
        self._steps = steps or _STEPS.get(name, _USUAL_STEPS)
        self._guidance = _GUIDANCE.get(name, _USUAL_GUIDANCE)
        self._cell_px = 2 ** (len(parts.components["vae"].config.block_out_channels) - 1)
        levels = len(parts.components["unet"].config.block_out_channels)
        # The latent one doubles the cells of its input; the other takes each of its pixels for a cell.
        self._is_latent = name == _LATENT_CLASS
        self.scale = 2 if self._is_latent else self._cell_px
        self._grain_px = self._cell_px * 2**levels // 2 if self._is_latent else math.lcm(self._cell_px, 2 ** (levels - 1))
        side_px = patch_px or _PATCH_RESULT_PX.get(parts.device.type, _PATCH_RESULT_PX["cuda"]) // self.scale
        self._patch_px = max(self._grain_px, side_px // self._grain_px * self._grain_px)
        self._numbers = itertools.count()

    @property
    def size_bytes(self) -> int:
        """See HasSize."""
        return self._parts.bytes

    def packed(self) -> Packed[DiffusionUpscaler]:
        """See CanReturn: it keeps nothing but its networks."""
        return Packed(self._parts.networks, lambda: self)

    def begin(self, size: tuple[int, int], scale: float, picture: Image.Image | None = None, guide: Guide | None = None) -> Repainting:
        """A row that makes a picture of that size so many times larger; the picture may come later.

        Raises InvalidRequest where what the pipeline draws, before it is brought to the asked size, would be too large to hold.
        """
        width, height = (-(-side // self._grain_px) * self._grain_px for side in size)
        if size[0] * size[1] > MAX_REPAINTED_PIXELS:
            sentence = f"The upscaler {self._id!r} takes pictures of at most {MAX_REPAINTED_PIXELS / 1e6:.1f} million pixels."
            raise InvalidRequest.of("model_id", sentence)
        patches = patches_of(width, height, side_px=self._patch_px, grain_px=self._grain_px)
        guide = guide or Guide()
        cells = [side * self.scale // self._cell_px for side in (patches[0].height, patches[0].width)]
        return Repainting(
            key=BatchKey(f"{self._id} {next(self._numbers)}", cells[0], cells[1], 1),
            sampler=PatchCourse(patches, self._steps),
            size=size,
            target=(max(1, round(size[0] * scale)), max(1, round(size[1] * scale))),
            forwards=self._parts.forwards_of_a_step * (2 if self._is_guided(guide) else 1),
            guide=guide,
            mosaic=Mosaic((width * self.scale, height * self.scale), self.scale),
            picture=picture,
        )

    def predict(self, rows: Sequence[Repainting]) -> list[Turn]:
        """Let each row's pipeline take its next step. Raises what that raised."""
        return [self._stepped(row) for row in rows]

    def advance(self, row: Repainting, predicted: Turn) -> None:
        """See Model."""
        row.take(predicted)

    def decode(self, row: Repainting) -> Image.Image:
        """The picture, RGB, of the size asked for."""
        width, height = row.size
        own = row.mosaic.picture.crop((0, 0, width * self.scale, height * self.scale))
        return own if own.size == row.target else own.resize(row.target, Image.Resampling.LANCZOS)

    def preview(self, row: Repainting, predicted: Turn) -> Image.Image | None:  # noqa: ARG002 - see Model
        """See Model: the picture itself, which becomes about the same but larger."""
        return row.picture

    def _is_guided(self, guide: Guide) -> bool:
        # Without words, the prediction with them and the one without are the same, and so is every step between them.
        return bool(guide.prompt) and self._guidance > 1

    def _stepped(self, row: Repainting) -> Turn:
        if row.call is None:
            row.call = SteppedCall(self._drawing_of(row), name=f"sdapi-{row.key.model}")
        row.call.advance()
        return Turn(row.step, row.call.result() if row.call.ended else None)

    def _drawing_of(self, row: Repainting) -> Any:
        """The pipeline's call for the patch at hand, as SteppedCall takes it."""
        pipe = assembled(self._parts, self._parts.pipeline_class)
        device = self._parts.device
        patch, several, guide = row.patch, len(row.sampler.patches) > 1, row.guide
        # One patch alone draws its noise as diffusers does by itself.
        own_seed = guide.seed + row.sampler.index + 1 if several else guide.seed
        arguments = {
            "prompt": guide.prompt,
            "image": self._shown(row, patch),
            "num_inference_steps": self._steps,
            "guidance_scale": self._guidance if self._is_guided(guide) else 1.0,
            "generator": torch.Generator("cpu").manual_seed(own_seed % 2**32),
            "latents": self._noise(row, patch) if several else None,
        }

        def draw(pause: Pause) -> Image.Image:
            def on_step(index: int, latents: Tensor | None) -> None:
                if latents is not None and not torch.isfinite(latents).all():
                    raise ArithmeticError("the latents overflowed")
                row.step = index + 1
                pause()

            if device.type == "cuda" and device.index is not None:
                torch.cuda.set_device(device)  # every thread has a current device of its own
            drawn: Image.Image = pipe(**arguments, **step_arguments(pipe, on_step)).images[0]
            return drawn.convert("RGB")

        return draw

    def _shown(self, row: Repainting, patch: Patch) -> Image.Image:
        """The patch's part of the picture; beyond its right and lower edge, these are drawn on."""
        if row.picture is None:
            raise ValueError("there is no picture to enlarge yet")
        right, bottom = patch.left + patch.width, patch.top + patch.height
        part = np.asarray(row.picture.crop((patch.left, patch.top, min(right, row.size[0]), min(bottom, row.size[1]))))
        return Image.fromarray(np.pad(part, ((0, patch.height - part.shape[0]), (0, patch.width - part.shape[1]), (0, 0)), mode="edge"))

    def _noise(self, row: Repainting, patch: Patch) -> Tensor:
        """The patch's part of the picture's noise, (1, channels, height, width) in cells of the result."""
        channels = self._parts.components["vae"].config.latent_channels
        across, down = (side // self._cell_px for side in row.mosaic.size)
        generator = torch.Generator("cpu").manual_seed(row.guide.seed)
        # As diffusers draws it for a picture in one piece: first what it puts on the picture that is shown, in colours or in latents.
        torch.randn((1, channels, down // 2, across // 2) if self._is_latent else (1, 3, down, across), generator=generator)
        whole = torch.randn((1, channels, down, across), generator=generator)
        left, top, width, height = (px * self.scale // self._cell_px for px in (patch.left, patch.top, patch.width, patch.height))
        return whole[..., top : top + height, left : left + width].to(self._parts.device, self._parts.components["unet"].dtype)
