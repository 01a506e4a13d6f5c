"""Control nets lead as in diffusers' own pipelines, and rows with and without them share forwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene
from safetensors.torch import save_file
from torch import Tensor

from sdapi.catalog import Asset, ModelBroken
from sdapi.catalog.checkpoint import Layout
from sdapi.domain.control_maps import ControlMap
from sdapi.domain.generation import ControlNet, SchedulerName
from sdapi.pipelines.control.annotators import control_map
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import load_controlnet
from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble

from .control_nets import a_control_net, a_control_net_model
from .drawing import Studio, a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference

CLOSENESS = 1
"""Of 255, to the stock pipeline: rounding of the last bit."""
BATCHED = 2
"""Of 255, to the same row alone."""
SCHEDULER = SchedulerName.DDIM


def a_control_request(**changes: object) -> ControlNet:
    """Led by one net, with the picture as the map it is."""
    values = {**a_request(scheduler=SCHEDULER).model_dump(exclude={"kind"}), "controlnet_models": ("one",), "control_image": "inputs/x.png"}
    return ControlNet.model_validate({**values, **changes})


def a_hint() -> Image.Image:
    picture: Image.Image = draw(Scene(shape="star", colour="yellow", background="black"), 64, 64)
    return picture


def another_picture() -> Image.Image:
    picture: Image.Image = draw(Scene(shape="square", colour="green", background="white"), 64, 64)
    return picture


@cache
def nets() -> dict[str, ControlNetwork]:
    """Nobody changes them."""
    return {
        "one": a_control_net(1, "one"),
        "two": a_control_net(2, "two"),
        "pooled": a_control_net(3, "pooled", global_pool_conditions=True),
    }


def draw_led(
    request: ControlNet, *, control: Image.Image | None = None, init: Image.Image | None = None, mask: Image.Image | None = None
) -> Image.Image:
    studio = Studio(control_nets=nets())
    asked = studio.ask(request, init, mask, control)
    studio.draw()
    return asked.image


def stock(pipeline_class: type[Any], controlnet: Any, **call: object) -> Image.Image:
    parts = demo_parts()
    pipeline = pipeline_class(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        controlnet=controlnet,
        scheduler=getattr(diffusers, SCHEDULER.value).from_config(dict(parts.scheduler_config)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    image: Image.Image = pipeline(a_request().prompt, num_inference_steps=4, generator=generator, **{"guidance_scale": 7.5, **call}).images[
        0
    ]
    return image


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1}, {"guess_mode": True}, {"guess_mode": True, "guidance_scale": 1}])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_led_picture_is_the_one_of_the_stock_pipeline(changes: dict[str, Any], scale: float) -> None:
    expected = stock(
        diffusers.StableDiffusionControlNetPipeline,
        a_control_net_model(1),
        image=a_hint(),
        controlnet_conditioning_scale=scale,
        **changes,
    )
    led = draw_led(a_control_request(conditioning_scales=(scale,), **changes), control=a_hint())
    assert greatest_difference(led, expected) <= CLOSENESS
    assert greatest_difference(led, draw_alone(a_request(scheduler=SCHEDULER))) > 20, "the net leads"


def test_several_nets_lead_with_a_scale_each_as_in_the_stock_pipeline() -> None:
    expected = stock(
        diffusers.StableDiffusionControlNetPipeline,
        [a_control_net_model(1), a_control_net_model(2)],
        image=[a_hint(), a_hint()],
        controlnet_conditioning_scale=[0.3, 0.9],
    )
    led = draw_led(a_control_request(controlnet_models=("one", "two"), conditioning_scales=(0.3, 0.9)), control=a_hint())
    swapped = draw_led(a_control_request(controlnet_models=("one", "two"), conditioning_scales=(0.9, 0.3)), control=a_hint())
    assert greatest_difference(led, expected) <= CLOSENESS
    assert greatest_difference(led, swapped) > 10


def test_a_net_that_tells_of_the_whole_picture_leads_as_in_the_stock_pipeline() -> None:
    expected = stock(diffusers.StableDiffusionControlNetPipeline, a_control_net_model(3, global_pool_conditions=True), image=a_hint())
    assert greatest_difference(draw_led(a_control_request(controlnet_models=("pooled",)), control=a_hint()), expected) <= CLOSENESS


def test_with_an_init_image_beside_the_control_image_it_is_drawn_over_as_in_the_stock_pipeline() -> None:
    expected = stock(
        diffusers.StableDiffusionControlNetImg2ImgPipeline,
        a_control_net_model(1),
        image=another_picture(),
        control_image=a_hint(),
        strength=0.5,
        controlnet_conditioning_scale=1.0,
    )
    request = a_control_request(init_image="inputs/y.png", strength=0.5)
    assert greatest_difference(draw_led(request, control=a_hint(), init=another_picture()), expected) <= CLOSENESS


def test_a_lone_init_image_leads_and_is_not_drawn_over() -> None:
    led = draw_led(a_control_request(init_image="inputs/y.png", control_image=None, strength=0.1), init=a_hint())
    assert greatest_difference(led, draw_led(a_control_request(), control=a_hint())) == 0


def test_with_a_mask_only_the_masked_part_is_drawn_led_by_the_net() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    request = a_control_request(init_image="inputs/y.png", mask_image="inputs/z.png", strength=1.0)
    led = draw_led(request, control=a_hint(), init=another_picture(), mask=mask)
    unled = draw_led(request.model_copy(update={"conditioning_scales": (0.0,)}), control=a_hint(), init=another_picture(), mask=mask)
    kept, drawn = (48, 0, 64, 64), (0, 0, 24, 64)
    assert greatest_difference(led.crop(kept), another_picture().crop(kept)) <= 3
    assert greatest_difference(led.crop(drawn), unled.crop(drawn)) > 20


@pytest.mark.parametrize("kind", ["canny", "lineart", "shuffle"])
def test_the_annotator_makes_the_map(kind: str) -> None:
    ready = control_map(ControlMap(kind), another_picture(), seed=7)
    ready_picture = Image.fromarray((ready * 255).round().astype("uint8"))
    made = draw_led(a_control_request(controlnet_type=kind), control=another_picture())
    given = draw_led(a_control_request(controlnet_type=kind, auto_hint=False), control=ready_picture)
    assert greatest_difference(made, given) <= CLOSENESS
    assert greatest_difference(made, draw_led(a_control_request(), control=another_picture())) > 5


class WatchedModel(UnetModel):
    """The real model, keeping a tally of its forwards."""

    def __init__(self) -> None:
        super().__init__("demo", demo_parts())
        self.batches: list[int] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append(len(rows))
        return super().predict(rows)


def test_rows_with_other_nets_scales_and_modes_share_forwards_with_rows_without() -> None:
    requests: list[Any] = [
        a_control_request(steps=8, seed=1),
        a_control_request(steps=8, seed=2, conditioning_scales=(0.3,)),
        a_control_request(steps=8, seed=3, controlnet_models=("two",), guess_mode=True),
        a_control_request(steps=8, seed=4, controlnet_models=("one", "two"), conditioning_scales=(0.5, 2.0), guidance_scale=1),
        a_control_request(steps=8, seed=5, controlnet_models=("pooled",)),
        a_control_request(steps=8, seed=6, init_image="inputs/y.png", strength=0.8),
        a_request(steps=8, seed=7, scheduler=SchedulerName.EULER),
        an_img2img_request(steps=10, seed=8),
    ]
    model = WatchedModel()
    studio = Studio({"demo": model}, control_nets=nets())

    def pictures(request: Any) -> dict[str, Image.Image | None]:
        is_led, starts = isinstance(request, ControlNet), getattr(request, "init_image", None) is not None
        return {"control_image": a_hint() if is_led else None, "init_image": another_picture() if starts else None}

    asked = [studio.ask(request, **pictures(request)) for request in requests]
    studio.draw()
    assert max(model.batches) >= 6, "the rows did share forwards"
    for job, request in zip(asked, requests, strict=True):
        alone = Studio(control_nets=nets())
        lone = alone.ask(request, **pictures(request))
        alone.draw()
        assert greatest_difference(job.image, lone.image) <= BATCHED, request


def test_a_scale_of_zero_is_as_good_as_no_net() -> None:
    unled = draw_alone(a_request(scheduler=SCHEDULER))
    assert greatest_difference(draw_led(a_control_request(conditioning_scales=(0.0,)), control=a_hint()), unled) == 0


def test_a_led_picture_leaves_nothing_behind() -> None:
    studio = Studio(control_nets=nets())
    before, led, after = studio.ask(a_request()), studio.ask(a_control_request(), control_image=a_hint()), studio.ask(a_request())
    studio.draw()
    assert isinstance(led.results[0], Pictures)
    alone = draw_alone(a_request())
    assert greatest_difference(before.image, alone) <= BATCHED
    assert greatest_difference(after.image, alone) <= BATCHED


def test_sample_i_is_the_picture_of_seed_plus_i_with_shuffled_maps_too() -> None:
    studio = Studio(control_nets=nets())
    two = studio.ask(a_control_request(seed=20, samples=2, controlnet_type="shuffle"), control_image=a_hint())
    studio.draw()
    (result,) = two.results
    assert isinstance(result, Pictures)
    alone = draw_led(a_control_request(seed=21, controlnet_type="shuffle"), control=a_hint())
    assert greatest_difference(result.images[1], alone) <= BATCHED


def test_a_net_that_can_not_be_loaded_or_does_not_fit_fails_its_job_only() -> None:
    large = ControlNetModel(block_out_channels=(32, 64), down_block_types=("DownBlock2D", "DownBlock2D"), layers_per_block=1)
    studio = Studio(control_nets={**nets(), "large": ControlNetwork("large", large)})
    misfit = studio.ask(a_control_request(controlnet_models=("large",)), control_image=a_hint())
    lost = studio.ask(a_control_request(controlnet_models=("one", "gone")), control_image=a_hint())
    fine = studio.ask(a_control_request(), control_image=a_hint())
    studio.draw()
    assert misfit.results == [Trouble("The control net 'large' is made for another kind of model than 'demo'.")]
    assert isinstance(lost.results[0], Trouble)
    assert isinstance(fine.results[0], Pictures)


@dataclass
class Sized:
    """Something that takes memory."""

    size_bytes: int = 10


def test_models_that_do_not_fit_together_are_drawn_with_all_the_same_and_idle_nets_leave_first() -> None:
    from sdapi.pipelines.memory.leases import Leases

    memory = Memory(15)
    models: Residency[Sized] = Residency(lambda _: Sized(), memory)
    loaded: list[str] = []

    def load(net_id: str) -> Any:
        loaded.append(net_id)
        return Sized()

    control_nets: Residency[Any] = Residency(load, memory)
    leases = Leases(models, control_nets)
    for _ in range(100):
        if leases.acquire("model", ("one", "two")) is not None:
            break
        memory.wait_for_load(1)
    assert len(leases.control_nets) == 2
    assert sorted(loaded) == ["one", "two"]
    leases.release()
    assert (models.size_bytes, control_nets.size_bytes) == (10, 0)
    models.close()
    control_nets.close()


def an_asset(path: Path) -> Asset:
    layout: Layout = "diffusers" if path.is_dir() else "single_file"
    return Asset(id="net", kind="controlnet", path=path, layout=layout, size_bytes=1, modified_at=datetime.now(UTC))


def loaded_from(path: Path, configs_dir: Path | None = None) -> ControlNetwork:
    more = {} if configs_dir is None else {"configs_dir": configs_dir}
    return ControlNetwork("net", load_controlnet(an_asset(path), device=torch.device("cpu"), dtype=torch.float32, **more))


def test_folders_and_single_files_load_to_the_same_net(tmp_path: Path) -> None:
    network = a_control_net_model(1)
    network.save_pretrained(tmp_path / "folder")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "net.safetensors")
    (tmp_path / "configs" / "controlnet").mkdir(parents=True)
    (tmp_path / "configs" / "controlnet" / "config.json").write_text((tmp_path / "folder" / "config.json").read_text())
    pictures = []
    for net in (
        ControlNetwork("one", network.to(memory_format=torch.channels_last)),
        loaded_from(tmp_path / "folder"),
        loaded_from(tmp_path / "net.safetensors", tmp_path / "configs"),
    ):
        studio = Studio(control_nets={"one": net})
        job = studio.ask(a_control_request(), control_image=a_hint())
        studio.draw()
        pictures.append(job.image)
    assert greatest_difference(pictures[0], pictures[1]) == 0
    assert greatest_difference(pictures[0], pictures[2]) == 0


def test_a_damaged_net_or_one_of_another_family_is_refused_in_a_sentence(tmp_path: Path) -> None:
    a_control_net_model(1).save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    save_file({"control_model.input_hint_block.0.weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    for path in (tmp_path / "cut", tmp_path / "other.safetensors"):
        with pytest.raises(ModelBroken, match="control net 'net' can't be loaded"):
            loaded_from(path)


def test_the_shipped_configuration_is_that_of_the_shipped_unet() -> None:
    configs = SHIPPED_CONFIGS / "sd1"
    unet, controlnet = (json.loads((configs / part / "config.json").read_text()) for part in ("unet", "controlnet"))
    shared = set(unet) & set(controlnet) - {"_class_name"}
    assert {"block_out_channels", "cross_attention_dim", "down_block_types", "layers_per_block"} <= shared
    assert all(unet[name] == controlnet[name] for name in shared)
