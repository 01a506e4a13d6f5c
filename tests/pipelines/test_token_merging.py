"""Token merging: what tomesd does to the stock pipeline, in batches of its own, and no trace of it afterwards."""

from __future__ import annotations

import diffusers
import pytest
import tomesd
import torch
from recipe.detector import detect

from sdapi.domain.generation import SchedulerName
from sdapi.pipelines.guidance.token_merging import Merge, merging
from sdapi.pipelines.scheduling.row import BatchKey

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference
from .test_equals_diffusers import stock
from .test_perturbed_attention import WatchedModel, drawn
from .tiny_families import SD2_V, XL, Kind, called, draw_with, parts_of
from .tiny_families import stock as stock_of

CLOSENESS = 1
TOGETHER = 2
VISIBLE = 8
EULER = SchedulerName.EULER


@pytest.mark.parametrize(("width", "height"), [(64, 64), (104, 72)])
def test_the_picture_is_that_of_a_stock_pipeline_patched_by_tomesd(width: int, height: int) -> None:
    pipeline = stock(diffusers.StableDiffusionPipeline, EULER)
    # The embedded model's attention is at its finest at half of the latents' size.
    tomesd.apply_patch(pipeline, ratio=0.5, max_downsample=2, use_rand=False)
    try:
        size = {"width": width, "height": height}
        expected = pipeline(a_request().prompt, num_inference_steps=4, **size, generator=torch.Generator().manual_seed(7)).images[0]
    finally:
        tomesd.remove_patch(pipeline)
    picture = draw_alone(a_request(token_merging=True, scheduler=EULER, width=width, height=height))
    assert greatest_difference(picture, expected) <= CLOSENESS
    assert greatest_difference(picture, draw_alone(a_request(scheduler=EULER, width=width, height=height))) >= VISIBLE


@pytest.mark.parametrize("kind", [SD2_V, XL])
def test_of_other_families_too(kind: Kind) -> None:
    pipeline = stock_of(kind, "StableDiffusion{}Pipeline")
    tomesd.apply_patch(pipeline, ratio=0.5, max_downsample=1, use_rand=False)
    expected = called(pipeline, a_request(), width=64, height=64)
    assert greatest_difference(draw_with(parts_of(kind), a_request(token_merging=True)), expected) <= CLOSENESS
    assert greatest_difference(draw_with(parts_of(kind), a_request()), expected) >= VISIBLE


def test_rows_that_merge_share_forwards_with_their_like_only_and_equal_themselves_alone() -> None:
    requests = [a_request(seed=seed, width=128, height=128, token_merging=seed != 3) for seed in (1, 2, 3)]
    requests[1] = requests[1].model_copy(update={"guidance_scale": 1.0, "steps": 6})
    model = WatchedModel()
    studio = Studio({"demo": model})
    asked = [studio.ask(request) for request in requests]
    studio.draw()
    assert {len(rows) for rows in model.forwards} == {1, 2}, "the two, and the one that doesn't"
    for job, request in zip(asked, requests, strict=True):
        assert greatest_difference(job.image, drawn(request)) <= TOGETHER


def test_it_still_draws_what_was_asked_for_and_the_next_picture_is_drawn_without() -> None:
    plain = draw_alone(a_request(width=128, height=128, steps=12))
    finding = detect(draw_alone(a_request(width=128, height=128, steps=12, token_merging=True)))
    assert (finding.shape, finding.colour, finding.background) == ("circle", "red", "blue")
    assert draw_alone(a_request(width=128, height=128, steps=12)).tobytes() == plain.tobytes()


def test_a_forward_that_fails_leaves_no_hook_behind() -> None:
    unet = demo_parts().unet
    hooked: list[torch.nn.Module] = []

    def fail() -> None:
        with merging(unet, BatchKey("demo", 8, 8, 77, merges_tokens=True)):
            hooked.extend(module for module in unet.modules() if module._forward_hooks)
            raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        fail()
    assert len(hooked) == 3, "attention at the finest level: one block down, two up"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


@pytest.mark.parametrize(("height", "width"), [(2, 6), (5, 3), (8, 8)])
def test_merged_tokens_come_back_to_all_their_places(height: int, width: int) -> None:
    down, across = torch.arange(height)[:, None], torch.arange(width)
    kinds = ((down // 2 + across // 2) % 2).flatten().float()
    tokens = torch.stack([kinds, 1 - kinds], dim=-1).expand(3, -1, -1)
    merge = Merge(tokens, height=height, width=width)
    left = merge.merged(tokens)
    assert left.shape[1] == height * width - height * width // 2
    assert torch.equal(merge.restored(left), tokens), "there is one of both kinds to be merged into, so none goes astray"
