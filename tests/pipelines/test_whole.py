"""Pipelines called whole take turns with everything else, and draw what diffusers itself would."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene

from sdapi.catalog import WHOLE_FAMILIES, Catalog
from sdapi.catalog.whole_inspection import WHOLE_PIPELINES
from sdapi.domain.generation import Inpaint, SchedulerName, Txt2Img
from sdapi.domain.progress import Progress
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.families.whole import WholeModel
from sdapi.pipelines.guidance.inpainting import pixel_paste
from sdapi.pipelines.loading.whole_loader import load_whole
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped, Trouble

from .drawing import Asked, Studio, a_request, an_img2img_request, an_inpaint_request, demo_parts, greatest_difference
from .tiny_whole import write_whole_folder

FAMILIES = ("flux", "sd3", "qwen_image", "z_image")
ALL = (*FAMILIES, "lumina2", "pixart")
CLOSENESS = 1
VISIBLE = 8


@pytest.fixture(scope="module")
def folders() -> Any:
    """Where the tiny models lie, saved once."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "checkpoints"
        for family in ALL:
            write_whole_folder(folder / family, family)
        yield folder


@pytest.fixture
def models(folders: Path) -> dict[str, Any]:
    return {"demo": UnetModel("demo", demo_parts())} | {family: a_model(folders, family) for family in ALL}


@cache
def a_model(folders: Path, model_id: str) -> WholeModel:
    checkpoint = Catalog(folders.parent, aliases={}, embedded=None).get(model_id)
    parts = load_whole(checkpoint, device=torch.device("cpu"), dtype=torch.float32, is_dtype_chosen=False)
    assert checkpoint.family in WHOLE_FAMILIES
    assert checkpoint.family == (model_id if model_id in FAMILIES else "other")
    return WholeModel(model_id, checkpoint.family, parts)


@cache
def stock(folders: Path, family: str) -> Any:
    """What a user of diffusers would load."""
    left_out = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders / family, local_files_only=True, **left_out)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(models: dict[str, Any], request: Any, *pictures: Image.Image) -> Image.Image:
    studio = Studio(models)
    asked: Asked = studio.ask(request, *pictures)
    studio.draw()
    return asked.image


def a_picture() -> Image.Image:
    picture: Image.Image = draw(Scene(shape="square", colour="green", background="white"), 64, 64)
    return picture


def a_mask() -> Image.Image:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    return mask


def guided(family: str) -> dict[str, Any]:
    return {"true_cfg_scale": 4.0, "negative_prompt": " "} if family == "qwen_image" else {"guidance_scale": 4.0}


def with_generator(seed: int = 7) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(seed)}


@pytest.mark.parametrize("family", ALL)
def test_words_give_the_picture_of_the_stock_pipeline(models: dict[str, Any], folders: Path, family: str) -> None:
    request = a_request(checkpoint=family, prompt="a red circle", guidance_scale=4, steps=3, samples=2)
    studio = Studio(models)
    asked = studio.ask(request)
    studio.draw()
    (result,) = asked.results
    assert isinstance(result, Pictures), result
    for sample, image in enumerate(result.images):
        expected = stock(folders, family)(
            "a red circle", width=64, height=64, num_inference_steps=3, **guided(family), **with_generator(7 + sample)
        ).images[0]
        assert greatest_difference(image, expected) <= CLOSENESS
    assert greatest_difference(*result.images) >= VISIBLE
    assert result.scheduler == ("DPMSolverMultistepScheduler" if family == "pixart" else "FlowMatchEulerDiscreteScheduler")
    assert [progress.step for progress in asked.progress] == [1, 2, 3, 4, 5, 6]
    assert {progress.steps for progress in asked.progress} == {6}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_to_start_from_gives_the_picture_of_the_stock_pipeline(models: dict[str, Any], folders: Path, family: str) -> None:
    request = an_img2img_request(checkpoint=family, prompt="a cat", guidance_scale=4, steps=5, strength=0.6)
    studio = Studio(models)
    asked = studio.ask(request, a_picture())
    studio.draw()
    pipe = AutoPipelineForImage2Image.from_pipe(stock(folders, family))
    pipe.set_progress_bar_config(disable=True)
    size = {"width": 64, "height": 64}
    expected = pipe("a cat", image=a_picture(), strength=0.6, num_inference_steps=5, **size, **guided(family), **with_generator()).images[0]
    assert greatest_difference(asked.image, expected) <= CLOSENESS
    assert [(progress.step, progress.steps) for progress in asked.progress] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_part_is_drawn_as_by_the_stock_pipeline_and_the_rest_stays(models: dict[str, Any], folders: Path, family: str) -> None:
    request = an_inpaint_request(checkpoint=family, prompt="a cat", guidance_scale=4, steps=4, strength=0.75)
    image = drawn(models, request, a_picture(), a_mask())
    pipe = AutoPipelineForInpainting.from_pipe(stock(folders, family))
    pipe.set_progress_bar_config(disable=True)
    pictures = {"image": a_picture(), "mask_image": a_mask(), "strength": 0.75, "width": 64, "height": 64}
    expected = pipe("a cat", num_inference_steps=4, **pictures, **guided(family), **with_generator()).images[0]
    assert greatest_difference(image, pixel_paste(a_picture(), a_mask()).pasted(expected)) <= CLOSENESS
    assert image.getpixel((2, 2)) == a_picture().getpixel((2, 2))
    assert greatest_difference(image, a_picture()) >= VISIBLE


@pytest.mark.parametrize(("family", "least"), [("flux", VISIBLE), ("sd3", VISIBLE), ("qwen_image", 2), ("z_image", VISIBLE)])
def test_prompt_negative_prompt_guidance_steps_and_seed_are_each_seen(models: dict[str, Any], family: str, least: int) -> None:
    request = a_request(checkpoint=family, prompt="a red circle", guidance_scale=4, steps=3)
    before = drawn(models, request)
    for change in ({"prompt": "9"}, {"negative_prompt": "blurry pictures"}, {"guidance_scale": 9}, {"steps": 5}, {"seed": 8}):
        assert greatest_difference(before, drawn(models, request.model_copy(update=change))) >= least, change


def test_flux_with_a_negative_prompt_is_guided_by_it_instead_of_by_its_input(models: dict[str, Any], folders: Path) -> None:
    image = drawn(models, a_request(checkpoint="flux", prompt="a cat", negative_prompt="a dog", guidance_scale=4, steps=3))
    told = {"negative_prompt": "a dog", "true_cfg_scale": 4.0, "guidance_scale": 1.0}
    expected = stock(folders, "flux")("a cat", width=64, height=64, num_inference_steps=3, **told, **with_generator()).images[0]
    assert greatest_difference(image, expected) <= CLOSENESS


def test_sizes_between_two_that_can_be_drawn_are_fitted_back(models: dict[str, Any], folders: Path) -> None:
    image = drawn(models, a_request(checkpoint="flux", prompt="a cat", width=72, height=64, guidance_scale=4, steps=2))
    expected = stock(folders, "flux")("a cat", width=80, height=64, num_inference_steps=2, guidance_scale=4, **with_generator()).images[0]
    assert greatest_difference(image, expected.resize((72, 64), Image.Resampling.LANCZOS)) <= CLOSENESS


def test_the_least_strength_takes_one_step(models: dict[str, Any]) -> None:
    studio = Studio(models)
    asked = studio.ask(an_img2img_request(checkpoint="flux", guidance_scale=4, steps=5, strength=0), a_picture())
    studio.draw()
    assert [(progress.step, progress.steps) for progress in asked.progress] == [(1, 1)]
    assert isinstance(asked.results[0], Pictures)


def test_whole_pipelines_and_joint_forwards_take_turns_and_draw_what_they_draw_alone(models: dict[str, Any]) -> None:
    requests = [
        a_request(steps=8, guidance_scale=1),
        a_request(checkpoint="flux", steps=6, guidance_scale=4),
        a_request(checkpoint="flux", steps=6, guidance_scale=4, seed=8),
        a_request(checkpoint="z_image", steps=6, guidance_scale=1),
    ]
    alone = [drawn(models, request) for request in requests]
    studio = Studio(models)
    together = [studio.ask(request) for request in requests]
    studio.draw()
    for asked, before in zip(together, alone, strict=True):
        assert greatest_difference(asked.image, before) <= CLOSENESS
    first_end = min(studio.order.index(f"done {number}") for number in range(4))
    begun = [studio.order.index(f"step {number}") for number in range(4)]
    assert max(begun) < first_end, studio.order
    flux = studio.order.index("step 1"), len(studio.order) - studio.order[::-1].index("step 1")
    assert studio.order[slice(*flux)].count("step 0") >= 3, "the joint loop went on while the pipeline was being drawn"


def test_turns_follow_the_size_of_the_network(models: dict[str, Any], folders: Path) -> None:
    tenfold = replace(a_model(folders, "flux")._parts, denoiser_parameters=8_600_000_000)
    studio = Studio(models | {"flux": WholeModel("flux", "flux", tenfold)})
    studio.ask(a_request(checkpoint="flux", steps=3))
    studio.ask(a_request(steps=30, guidance_scale=1))
    studio.draw()
    steps = [number for number, what in enumerate(studio.order) if what == "step 0"]
    assert studio.order[steps[1] : steps[2]].count("step 1") in (9, 10, 11), studio.order


def test_a_cancelled_drawing_ends_within_a_step_and_the_next_is_unharmed(models: dict[str, Any]) -> None:
    request = a_request(checkpoint="flux", guidance_scale=4, steps=3)
    before = drawn(models, request)
    studio = Studio(models)

    def cancel(progress: Progress) -> None:
        if progress.step == 2:
            studio.asked[0].ticket.cancelled.set()

    cancelled = studio.ask(request.model_copy(update={"steps": 40}), on_step=cancel)
    following = studio.ask(request)
    studio.draw()
    assert isinstance(cancelled.results[0], Stopped)
    assert len(cancelled.progress) == 2
    assert greatest_difference(following.image, before) == 0
    assert not threads()


def test_a_loop_that_is_stopped_leaves_no_thread(models: dict[str, Any]) -> None:
    studio = Studio(models)
    asked = studio.ask(a_request(checkpoint="flux", steps=40, samples=3), on_step=lambda _: studio.loop.stop())
    studio.draw()
    assert isinstance(asked.results[0], Stopped)
    assert not threads()


def test_a_pipeline_that_fails_midway_fails_its_own_job_and_leaves_no_thread(models: dict[str, Any]) -> None:
    request = a_request(checkpoint="flux", guidance_scale=4, steps=4)
    transformer = models["flux"]._parts.components["transformer"]
    calls: list[int] = []

    def third_time(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the kernel failed")

    hook = transformer.register_forward_pre_hook(third_time)
    studio = Studio(models)
    failing, neighbour = studio.ask(request), studio.ask(a_request(steps=6))
    studio.draw()
    hook.remove()
    assert failing.results == [Trouble("the drawing failed")]
    assert isinstance(neighbour.results[0], Pictures)
    assert isinstance(drawn(models, request), Image.Image)
    assert not threads()


def test_a_model_that_leaves_takes_its_weights_along(folders: Path) -> None:
    def drawn_and_cancelled() -> weakref.ref[Any]:
        checkpoint = Catalog(folders.parent, aliases={}, embedded=None).get("flux")
        parts = load_whole(checkpoint, device=torch.device("cpu"), dtype=torch.float32, is_dtype_chosen=False)
        model = WholeModel("flux", "flux", parts)
        assert isinstance(drawn({"flux": model}, a_request(checkpoint="flux", steps=2)), Image.Image)
        studio = Studio({"flux": model})
        studio.ask(a_request(checkpoint="flux", steps=9, samples=2), on_step=lambda _: studio.loop.stop())
        studio.draw()
        return weakref.ref(parts.components["transformer"])

    left = drawn_and_cancelled()
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_looks_show_what_it_becomes_and_change_nothing(models: dict[str, Any], family: str) -> None:
    request = a_request(checkpoint=family, guidance_scale=4, steps=6)
    seen: list[Image.Image | None] = []
    studio = Studio(models)
    asked = studio.ask(request, on_step=lambda _: studio.loop.preview(0, seen.append))
    studio.draw()
    shown = [image for image in seen[:5] if image is not None]
    assert len(shown) == 5, "asked for after a step, answered at the next one"
    distances = [mean_difference(image, asked.image) for image in shown]
    assert distances[-1] <= 0.5, "the last step leaves no noise"
    assert distances[0] > 2, "this model changes its mind on the way"
    assert greatest_difference(asked.image, drawn(models, request)) == 0


def test_large_pictures_are_looked_at_small_and_unknown_ones_not_at_all(models: dict[str, Any]) -> None:
    studio = Studio(models)
    seen: list[Image.Image | None] = []
    other: list[Image.Image | None] = []
    studio.ask(
        a_request(checkpoint="sd3", width=288, height=64, guidance_scale=1, steps=3), on_step=lambda _: studio.loop.preview(0, seen.append)
    )
    studio.ask(a_request(checkpoint="lumina2", steps=3), on_step=lambda _: studio.loop.preview(1, other.append))
    studio.draw()
    assert [image.size for image in seen[:2] if image is not None] == [(256, 56), (256, 56)]
    assert other[:2] == [None, None]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"clip_skip": 2}, "clip_skip"),
        ({"loras": ({"id": "moxin"},)}, "lora_model"),
        ({"embeddings": ("moody",)}, "embeddings_model"),
        ({"vae": "dark"}, "vae"),
        ({"panorama": True}, "panorama"),
    ],
)
def test_what_the_family_can_not_do_is_refused_by_name(models: dict[str, Any], changes: dict[str, Any], field: str) -> None:
    studio = Studio(models)
    asked = studio.ask(a_request(checkpoint="flux", **changes))
    studio.draw()
    (result,) = asked.results
    assert isinstance(result, Trouble)
    assert result.reason.startswith(f"{field}: ")
    assert "not possible with the model 'flux', a Flux (flux)" in result.reason


def test_a_named_scheduler_leaves_the_models_own(models: dict[str, Any]) -> None:
    request: Txt2Img = a_request(checkpoint="sd3", guidance_scale=4, steps=2)
    named = request.model_copy(update={"scheduler": SchedulerName.DDIM})
    assert greatest_difference(drawn(models, request), drawn(models, named)) == 0


def test_a_size_beyond_what_the_model_knows_is_refused_by_name(models: dict[str, Any]) -> None:
    studio = Studio(models)
    asked = studio.ask(a_request(checkpoint="sd3", width=512, height=64))
    studio.draw()
    assert asked.results == [Trouble("width: The model 'sd3' draws at most 384 pixels in this direction.")]


def test_other_pipelines_start_from_words_alone(models: dict[str, Any]) -> None:
    studio = Studio(models)
    request: Inpaint = an_inpaint_request(checkpoint="lumina2")
    asked = studio.ask(request, a_picture(), a_mask())
    studio.draw()
    assert "mask_image: Drawing a masked part anew is not possible" in str(asked.results[0])


def test_every_pipeline_the_catalog_knows_is_the_one_diffusers_would_choose() -> None:
    by_words = {pipeline.__name__ for pipeline in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    for name, family in WHOLE_PIPELINES.items():
        asked = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert {"prompt", "num_inference_steps", "width", "height", "generator"} <= set(asked), name
        assert "callback_on_step_end" in asked or "callback" in asked, name
        if family == "other":
            assert name in by_words
    for key, start in (("flux", "Flux"), ("stable-diffusion-3", "StableDiffusion3"), ("qwenimage", "QwenImage"), ("z-image", "ZImage")):
        assert AUTO_TEXT2IMAGE_PIPELINES_MAPPING[key].__name__ == f"{start}Pipeline"
        assert AUTO_IMAGE2IMAGE_PIPELINES_MAPPING[key].__name__ == f"{start}Img2ImgPipeline"
        assert AUTO_INPAINT_PIPELINES_MAPPING[key].__name__ == f"{start}InpaintPipeline"


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=np.float32) - np.asarray(other, dtype=np.float32)).mean())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sdapi-whole")]
