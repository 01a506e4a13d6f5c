"""Perturbed-attention guidance: the stock pipeline's picture, beside rows that don't have it, and no trace of it afterwards."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from recipe.detector import detect
from torch import Tensor

from sdapi.catalog import Assets, ModelBroken
from sdapi.domain.generation import Img2Img, SchedulerName, Txt2Img
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.guidance.perturbed_attention import perturbation_scale, perturbed
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Trouble

from . import test_controlnets as led
from .control_nets import a_control_net_model
from .drawing import Studio, a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference
from .lora_files import a_lora, install, kohya, merged
from .test_equals_diffusers import an_init_image
from .test_equals_diffusers import stock as stock_pipeline
from .tiny_families import SD2_V, XL, Kind, called, draw_with, parts_of
from .tiny_families import stock as stock_of

CLOSENESS = 1
TOGETHER = 2
"""Of 255, as everywhere: larger matrix products round differently."""
VISIBLE = 8
EULER = SchedulerName.EULER
MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn1"


@cache
def outspoken() -> UnetComponents:
    """The embedded model, its middle made to look around more sharply and to say more of it: else perturbing it is hardly seen."""
    unet = copy.deepcopy(demo_parts().unet)
    attention = unet.get_submodule(MIDDLE)
    attention.to_q.weight.data *= 4
    attention.to_out[0].weight.data *= 8
    return replace(demo_parts(), unet=unet)


def drawn(request: Txt2Img | Img2Img, init_image: Image.Image | None = None) -> Image.Image:
    """The picture of a request that has the outspoken model to itself."""
    studio = Studio({"demo": UnetModel("demo", outspoken())})
    asked = studio.ask(request, init_image)
    studio.draw()
    return asked.image


def stock(pipeline_class: type[diffusers.DiffusionPipeline], **call: Any) -> Image.Image:
    """What diffusers draws with that model."""
    pipeline: Any = stock_pipeline(pipeline_class, EULER)
    pipeline.register_modules(unet=outspoken().unet)
    image: Image.Image = pipeline(a_request().prompt, generator=torch.Generator().manual_seed(7), **call).images[0]
    return image


class WatchedModel(UnetModel):
    """The real model, keeping a tally of the rows and samples of its forwards."""

    def __init__(self) -> None:
        super().__init__("demo", outspoken())
        self.forwards: list[tuple[int, ...]] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.forwards.append(tuple(row.forwards for row in rows))
        return super().predict(rows)


@pytest.mark.parametrize("guidance_scale", [7.5, 1])
def test_the_picture_is_that_of_the_stock_pipeline(guidance_scale: float) -> None:
    drawing = {"num_inference_steps": 5, "guidance_scale": guidance_scale, "width": 128, "height": 96}
    expected = stock(diffusers.StableDiffusionPAGPipeline, **drawing)
    request = a_request(self_attention=True, scheduler=EULER, steps=5, guidance_scale=guidance_scale, width=128, height=96)
    assert greatest_difference(drawn(request), expected) <= CLOSENESS
    assert greatest_difference(drawn(request.model_copy(update={"self_attention": False})), expected) >= VISIBLE


@pytest.mark.parametrize("kind", [SD2_V, XL])
def test_of_other_families_too(kind: Kind) -> None:
    request = a_request(self_attention=True, width=128, height=128)
    expected = called(stock_of(kind, "StableDiffusion{}PAGPipeline"), request, width=128, height=128)
    assert greatest_difference(draw_with(parts_of(kind), request), expected) <= CLOSENESS
    assert greatest_difference(draw_with(parts_of(kind), a_request(width=128, height=128)), expected) >= VISIBLE


def test_from_a_picture_it_is_that_of_the_stock_pipeline() -> None:
    init = an_init_image().resize((128, 96))
    expected = stock(diffusers.StableDiffusionPAGImg2ImgPipeline, num_inference_steps=6, guidance_scale=7.5, strength=0.6, image=init)
    request = an_img2img_request(self_attention=True, scheduler=EULER, steps=6, width=128, height=96)
    assert greatest_difference(drawn(request, init), expected) <= CLOSENESS


def test_led_by_a_control_net_it_is_that_of_the_stock_pipeline() -> None:
    expected = led.stock(diffusers.StableDiffusionControlNetPAGPipeline, a_control_net_model(1), image=led.a_hint())
    picture = led.draw_led(led.a_control_request(self_attention=True), control=led.a_hint())
    assert greatest_difference(picture, expected) <= CLOSENESS


def test_with_a_lora_in_the_middle_it_is_that_of_a_model_into_which_the_lora_was_merged(tmp_path: Path) -> None:
    lora = a_lora(unet=(f"{MIDDLE}.to_v", f"{MIDDLE}.to_out.0"), text=(), size=3.0)
    install(tmp_path, "middle", kohya(lora))
    request = a_request(self_attention=True, width=128, height=96)
    with_lora = request.model_copy(update={"loras": a_request(loras=[{"id": "middle"}]).loras})
    studio = Studio({"demo": UnetModel("demo", outspoken(), Assets(tmp_path))})
    plain, changed = studio.ask(request), studio.ask(with_lora)
    studio.draw()
    expected = Studio({"demo": UnetModel("demo", merged(lora, 1.0, outspoken()))})
    alone = expected.ask(request)
    expected.draw()
    assert greatest_difference(changed.image, alone.image) <= TOGETHER
    assert greatest_difference(plain.image, drawn(request)) <= TOGETHER
    assert greatest_difference(plain.image, changed.image) >= VISIBLE


def test_rows_with_and_without_it_share_forwards_and_equal_themselves_alone() -> None:
    size = {"width": 128, "height": 96}
    perturbed_alike = {"self_attention": True, **size}
    requests = [
        a_request(seed=1, steps=6, **size),
        a_request(seed=2, steps=5, **perturbed_alike),
        a_request(seed=3, guidance_scale=1, **perturbed_alike),
    ]
    model = WatchedModel()
    studio = Studio({"demo": model})
    asked = [studio.ask(request) for request in requests]
    studio.draw()
    assert any(sorted(forwards) == [2, 2, 3] for forwards in model.forwards), "one is guided, one perturbed, one both"
    for job, request in zip(asked, requests, strict=True):
        assert greatest_difference(job.image, drawn(request)) <= TOGETHER


def test_it_still_draws_what_was_asked_for() -> None:
    finding = detect(draw_alone(a_request(width=128, height=128, steps=15, self_attention=True)))
    assert (finding.shape, finding.colour, finding.background) == ("circle", "red", "blue")


def test_a_forward_that_fails_leaves_no_hook_behind() -> None:
    unet = demo_parts().unet
    before = {name: type(module.processor) for name, module in unet.named_modules() if hasattr(module, "processor")}
    hooked: list[torch.nn.Module] = []

    def fail() -> None:
        with perturbed(unet, torch.tensor([True])):
            hooked.extend(module for module in unet.modules() if module._forward_hooks)
            raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        fail()
    assert len(hooked) == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    assert {name: type(module.processor) for name, module in unet.named_modules() if hasattr(module, "processor")} == before


def test_a_model_without_a_middle_fails_the_request_that_asks_for_it_and_no_other() -> None:
    unet = copy.deepcopy(demo_parts().unet)
    unet.mid_block = None
    with pytest.raises(ModelBroken, match="self_attention"):
        perturbation_scale(unet, "lean")
    studio = Studio({"demo": UnetModel("demo", replace(demo_parts(), unet=unet))})
    refused, neighbour = studio.ask(a_request(self_attention=True)), studio.ask(a_request())
    studio.draw()
    (result,) = refused.results
    assert result == Trouble("The model 'demo' has no self-attention in its middle: it can't be drawn with self_attention.")
    assert neighbour.image.size == (64, 64)
