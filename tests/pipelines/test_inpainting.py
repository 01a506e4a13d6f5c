"""A masked part is drawn anew, in joint forwards with everything else, and the rest of the picture stays."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import COLOURS, Scene
from torch import Tensor

from sdapi.catalog import Catalog
from sdapi.domain.generation import Img2Img, Inpaint, SchedulerName, Txt2Img
from sdapi.engine.availability import missing
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.guidance.inpainting import latent_mask, pixel_mask, pixel_paste
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures

from .drawing import Studio, a_request, an_img2img_request, an_inpaint_request, demo_parts, draw_alone, greatest_difference
from .tiny_checkpoint import write_diffusers_folder, write_single_file

CLOSENESS = 1
"""Of 255, to diffusers' own pipeline: rounding of the last bit."""
CLOSENESS_IN_A_BATCH = 2
STOCK_SCHEDULERS = [
    SchedulerName.DDPM,
    SchedulerName.DDIM,
    SchedulerName.PNDM,
    SchedulerName.LMS,
    SchedulerName.EULER,
    SchedulerName.EULER_ANCESTRAL,
    SchedulerName.DPM_MULTISTEP,
    SchedulerName.HEUN,
    SchedulerName.KDPM2,
    SchedulerName.DPM_SINGLESTEP,
    SchedulerName.KDPM2_ANCESTRAL,
    SchedulerName.UNIPC,
    SchedulerName.DEIS,
]

Job = tuple[Txt2Img | Img2Img | Inpaint, Image.Image | None, Image.Image | None]


def an_init_image(side: int = 64) -> Image.Image:
    picture: Image.Image = draw(Scene(shape="square", colour="green", background="white"), side, side)
    return picture


def a_mask(side: int = 64, box: tuple[int, int, int, int] = (16, 8, 48, 40)) -> Image.Image:
    """White in the box, whose corners lie on latent cells; the right and lower edges are outside."""
    mask = Image.new("L", (side, side))
    mask.paste(255, box)
    return mask


def mean_difference_outside(one: Image.Image, other: Image.Image, mask: Image.Image) -> float:
    """Mean absolute difference where the mask is black, 0..255."""
    difference = np.abs(np.asarray(one, dtype=np.float32) - np.asarray(other, dtype=np.float32)).mean(-1)
    return float(difference[np.asarray(mask) == 0].mean())


@cache
def inpainting_parts() -> UnetComponents:
    """The embedded model, its UNet widened to nine channels that all matter."""
    parts = demo_parts()
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**parts.unet.config, "in_channels": 9})
    state = {name: tensor.clone() for name, tensor in parts.unet.state_dict().items()}
    extra = 0.2 * torch.randn(state["conv_in.weight"].shape[0], 5, 3, 3)
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], extra], dim=1)
    unet.load_state_dict(state)
    return replace(parts, unet=unet.eval().requires_grad_(requires_grad=False))


def stock(
    parts: UnetComponents, request: Inpaint, init: Image.Image, mask: Image.Image, *, scheduler: SchedulerName | None = None
) -> Image.Image:
    """What StableDiffusionInpaintPipeline draws, before anything is pasted back."""
    name = scheduler.value if scheduler else str(parts.scheduler_config["_class_name"])
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=parts.unet,
        scheduler=getattr(diffusers, name).from_config(dict(parts.scheduler_config)),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    picture: Image.Image = pipeline(
        request.prompt,
        image=init,
        mask_image=mask,
        width=request.width,
        height=request.height,
        strength=request.strength,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]
    return picture


def draw_with(
    parts: UnetComponents, request: Txt2Img | Img2Img | Inpaint, init: Image.Image | None = None, mask: Image.Image | None = None
) -> Image.Image:
    studio = Studio({"demo": UnetModel("demo", parts)})
    asked = studio.ask(request, init, mask)
    studio.draw()
    return asked.image


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("scheduler", STOCK_SCHEDULERS)
def test_the_masked_part_is_the_one_the_stock_pipeline_draws(scheduler: SchedulerName, strength: float) -> None:
    request = an_inpaint_request(scheduler=scheduler, steps=6, strength=strength)
    init, mask = an_init_image(), a_mask()
    expected = pixel_paste(init, mask).pasted(stock(demo_parts(), request, init, mask, scheduler=scheduler))
    drawn = draw_alone(request, init, mask)
    assert greatest_difference(drawn, expected) <= CLOSENESS
    assert greatest_difference(drawn, init) > 50, "something was drawn"


@pytest.mark.parametrize("scheduler", [name for name in SchedulerName if missing(a_request(scheduler=name)) is None])
def test_every_sampler_draws_the_inside_and_keeps_the_outside(scheduler: SchedulerName) -> None:
    init, mask = draw(Scene(shape="square", colour="green", background="blue"), 128, 128), a_mask(128, (16, 16, 112, 112))
    request = an_inpaint_request(scheduler=scheduler, width=128, height=128, steps=20, guidance_scale=4)
    drawn = draw_alone(request, init, mask)
    assert mean_difference_outside(drawn, init, mask) < 3
    finding = detect(drawn)
    assert (finding.background, finding.colour) == ("blue", "red")


def test_rows_with_masks_share_forwards_with_rows_that_have_none_and_equal_the_lone_ones() -> None:
    class Watched(UnetModel):
        batches: list[int]

        def predict(self, rows: Sequence[Row]) -> list[Tensor]:
            self.batches.append(len(rows))
            return super().predict(rows)

    model = Watched("demo", demo_parts())
    model.batches = []
    studio = Studio({"demo": model})
    init, wide, narrow = an_init_image(), a_mask(), a_mask(box=(0, 0, 24, 64))
    jobs: list[Job] = [
        (an_inpaint_request(seed=1, steps=6), init, wide),
        (a_request(seed=2, steps=5), None, None),
        (an_inpaint_request(seed=3, steps=8, strength=0.5, scheduler=SchedulerName.EULER_ANCESTRAL), init, narrow),
        (an_img2img_request(seed=4, steps=10, strength=0.5), init, None),
        (an_inpaint_request(seed=5, steps=4, guidance_scale=1, scheduler=SchedulerName.HEUN), init, wide),
    ]
    asked = [studio.ask(*job) for job in jobs]
    studio.draw()
    assert max(model.batches) == len(jobs)
    for job, found in zip(jobs, asked, strict=True):
        assert greatest_difference(found.image, draw_alone(*job)) <= CLOSENESS_IN_A_BATCH, job[0]


@pytest.mark.parametrize("side", [64, 128])
def test_outside_the_mask_the_picture_stays_and_far_from_it_to_the_byte(side: int) -> None:
    init = an_init_image(side)
    mask = a_mask(side, (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    request = an_inpaint_request(prompt="a black circle on a purple background", width=side, height=side, steps=10)
    drawn = draw_alone(request, init, mask)
    assert mean_difference_outside(drawn, init, mask) < 3
    beyond_the_edge = a_mask(side, (side // 4 - 8, side // 4 - 8, 3 * side // 4 + 8, 3 * side // 4 + 8))
    assert mean_difference_outside(drawn, init, beyond_the_edge) == 0
    assert mean_difference_outside(drawn, init, Image.eval(mask, lambda level: 255 - level)) > 30, "inside it did change"


def test_every_sample_has_its_own_seed_and_keeps_the_outside() -> None:
    init, mask = an_init_image(), a_mask()
    studio = Studio()
    asked = studio.ask(an_inpaint_request(seed=20, samples=2), init, mask)
    studio.draw()
    (result,) = asked.results
    assert isinstance(result, Pictures)
    assert greatest_difference(result.images[1], draw_alone(an_inpaint_request(seed=21), init, mask)) <= CLOSENESS_IN_A_BATCH


def test_a_black_mask_gives_the_picture_back() -> None:
    init = an_init_image()
    assert greatest_difference(draw_alone(an_inpaint_request(), init, Image.new("L", (64, 64))), init) == 0


def test_strength_decides_how_much_of_the_inside_survives() -> None:
    init, mask = an_init_image(128), a_mask(128, (16, 16, 112, 112))
    request = an_inpaint_request(prompt="a red circle on a blue background", width=128, height=128, steps=20)
    distances = []
    for strength in (0.1, 0.5, 1.0):
        drawn = draw_alone(request.model_copy(update={"strength": strength}), init, mask)
        distances.append(mean_difference_outside(drawn, init, Image.eval(mask, lambda level: 255 - level)))
    assert distances == sorted(distances)
    assert distances[0] < distances[2] / 2


def test_a_canvas_can_be_extended() -> None:
    """As clients outpaint: the picture in the middle of a larger one, the mask white around it."""
    inner = draw(Scene(shape="circle", colour="red", background="blue"), 64, 64)
    canvas = Image.new("RGB", (128, 128), "white")
    canvas.paste(inner, (32, 32))
    mask = Image.new("L", (128, 128), 255)
    mask.paste(0, (32, 32, 96, 96))
    request = an_inpaint_request(prompt="a red circle on a blue background", width=128, height=128, steps=20)
    drawn = draw_alone(request, canvas, mask)
    assert mean_difference_outside(drawn, canvas, mask) < 3
    finding = detect(drawn)
    assert (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")


def test_a_thin_stroke_is_drawn_anew_though_no_cell_begins_with_it() -> None:
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).line((3, 12, 60, 12), fill=255)
    assert latent_mask(mask, cell_px=8).sum() == 8
    drawn = draw_alone(an_inpaint_request(prompt="black"), Image.new("RGB", (64, 64), COLOURS["yellow"]), mask)
    row = np.asarray(drawn, dtype=np.int16)[12, 8:56] - np.array(COLOURS["yellow"], dtype=np.int16)
    assert np.abs(row).mean() > 10


def test_grey_counts_as_the_nearer_of_black_and_white_and_softens_the_edge() -> None:
    mask = Image.new("L", (64, 64))
    mask.putdata([255 if x < 16 else 160 if x < 32 else 96 if x < 48 else 0 for _ in range(64) for x in range(64)])
    assert pixel_mask(mask)[0, 0, 0].tolist() == [1.0] * 32 + [0.0] * 32
    assert latent_mask(mask, cell_px=8)[0, 0, 0].tolist() == [1.0] * 4 + [0.0] * 4
    cover = pixel_paste(an_init_image(), mask).cover
    assert [cover.getpixel((x, 30)) for x in (4, 44, 60)] == [255, 96, 0]


# -- models with nine channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [SchedulerName.DDIM, SchedulerName.EULER_ANCESTRAL])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_an_inpainting_model_is_shown_mask_and_masked_picture_as_the_stock_pipeline_shows_them(
    scheduler: SchedulerName, strength: float
) -> None:
    request = an_inpaint_request(scheduler=scheduler, steps=6, strength=strength)
    init, mask = an_init_image(), a_mask()
    expected = pixel_paste(init, mask).pasted(stock(inpainting_parts(), request, init, mask, scheduler=scheduler))
    assert greatest_difference(draw_with(inpainting_parts(), request, init, mask), expected) <= CLOSENESS


def test_without_a_mask_an_inpainting_model_draws_all_of_the_picture_anew() -> None:
    white, grey = Image.new("L", (64, 64), 255), Image.new("RGB", (64, 64), (128, 128, 128))
    expected = stock(inpainting_parts(), an_inpaint_request(scheduler=SchedulerName.DDIM), grey, white, scheduler=SchedulerName.DDIM)
    drawn = draw_with(inpainting_parts(), a_request(scheduler=SchedulerName.DDIM))
    assert greatest_difference(drawn, expected) <= CLOSENESS

    request = an_inpaint_request(scheduler=SchedulerName.DDIM, steps=8, strength=0.5)
    expected = stock(inpainting_parts(), request, an_init_image(), white, scheduler=SchedulerName.DDIM)
    drawn = draw_with(inpainting_parts(), an_img2img_request(scheduler=SchedulerName.DDIM, steps=8, strength=0.5), an_init_image())
    assert greatest_difference(drawn, expected) <= CLOSENESS


def test_rows_of_an_inpainting_model_share_forwards_whether_they_have_masks_or_not() -> None:
    init, mask = an_init_image(), a_mask()
    jobs: list[Job] = [
        (an_inpaint_request(seed=1), init, mask),
        (a_request(seed=2, steps=5), None, None),
        (an_img2img_request(seed=3), init, None),
    ]
    model = UnetModel("demo", inpainting_parts())
    assert len({row.key for job in jobs for row in model.prepare(*job)}) == 1
    studio = Studio({"demo": model})
    asked = [studio.ask(*job) for job in jobs]
    studio.draw()
    for job, found in zip(jobs, asked, strict=True):
        assert greatest_difference(found.image, draw_with(inpainting_parts(), *job)) <= CLOSENESS_IN_A_BATCH


def test_inpainting_checkpoints_are_loaded_from_folders_and_single_files_alike(tmp_path: Path) -> None:
    folder = write_diffusers_folder(tmp_path / "checkpoints" / "folder", in_channels=9)
    write_single_file(folder, tmp_path / "checkpoints" / "file.safetensors")
    plain = write_diffusers_folder(tmp_path / "plain")
    shutil.copytree(plain, tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    catalog = Catalog(tmp_path, aliases={}, embedded=None)
    assert catalog.problems() == []
    cpu, configs = torch.device("cpu"), tmp_path / "configs"
    loaded = {one.id: load_checkpoint(one, device=cpu, dtype=torch.float32, configs_dir=configs) for one in catalog.all()}
    ours, theirs = loaded["file"].unet, loaded["folder"].unet
    assert ours.config.in_channels == theirs.config.in_channels == 9
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
