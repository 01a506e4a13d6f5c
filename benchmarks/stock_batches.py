"""What diffusers' own pipeline can do for many different requests: one after another, or those alike in static batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from PIL import Image

from sdapi.domain.generation import Txt2Img


def draw_batch(pipeline: Any, requests: Sequence[Txt2Img]) -> list[Image.Image]:
    """One call for requests that differ in prompts and seeds only; the scheduler is theirs."""
    first = requests[0]
    # None is more than many empty ones: SDXL then takes zeros for them, as we do.
    negative_prompts = [request.negative_prompt for request in requests] if any(request.negative_prompt for request in requests) else None
    with warnings.catch_warnings(), _scheduler_of(pipeline, first):
        warnings.simplefilter("ignore")
        images: list[Image.Image] = pipeline(
            [request.prompt for request in requests],
            negative_prompt=negative_prompts,
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        ).images
    return images


def static_batches(requests: Sequence[Txt2Img]) -> list[list[int]]:
    """The places of requests that one call can take together, in the order of the first of each."""
    together: dict[tuple[object, ...], list[int]] = {}
    for place, one in enumerate(requests):
        together.setdefault((one.width, one.height, one.steps, one.scheduler, one.guidance_scale), []).append(place)
    return list(together.values())


@contextmanager
def _scheduler_of(pipeline: Any, request: Txt2Img) -> Iterator[None]:
    own = pipeline.scheduler
    if request.scheduler is not None:
        pipeline.scheduler = getattr(diffusers, request.scheduler.value).from_config(own.config)
    try:
        yield
    finally:
        pipeline.scheduler = own
