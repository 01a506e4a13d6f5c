from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdapi.catalog import Assets, Refused
from sdapi.catalog.inspection import inspect_folder
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import Upscale
from sdapi.domain.progress import Progress
from sdapi.model_downloads.hub import HubListing, ListedFile, choose_files
from sdapi.pipelines.loading.whole_loader import load_whole
from sdapi.pipelines.scheduling.tickets import Stopped
from sdapi.pipelines.upscalers.diffusion import DiffusionUpscaler
from sdapi.pipelines.upscalers.loading import load_upscaler
from sdapi.pipelines.upscalers.overlaps import Mosaic, patches_of
from sdapi.pipelines.upscalers.repainting import Guide

from .drawing import Studio, a_request, draw_alone, greatest_difference
from .test_upscalers import a_picture
from .tiny_upscalers import write_upscaling_folder

STEPS = 3
PIPELINES = {"x4": diffusers.StableDiffusionUpscalePipeline, "latent": diffusers.StableDiffusionLatentUpscalePipeline}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in PIPELINES:
        write_upscaling_folder(root / "upscalers" / name, name)
    return root


def loaded(folders: Path, name: str, *, patch_px: int | None = None, steps: int = STEPS) -> DiffusionUpscaler:
    asset = Assets(folders).get("upscaler", name)
    parts = load_whole(asset, device=torch.device("cpu"), dtype=torch.float32, is_dtype_chosen=True)
    return DiffusionUpscaler(name, parts, steps=steps, patch_px=patch_px)


def enlarged(model: DiffusionUpscaler, picture: Image.Image, scale: float, guide: Guide | None = None) -> Image.Image:
    row = model.begin(picture.size, scale, picture, guide)
    while not row.sampler.finished:
        model.advance(row, model.predict([row])[0])
    image = model.decode(row)
    row.close()
    return image


def by_diffusers(
    folders: Path, name: str, picture: Image.Image, *, seed: int, prompt: str = "", guidance_scale: float = 1.0
) -> Image.Image:
    pipe = PIPELINES[name].from_pretrained(folders / "upscalers" / name)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    image: Image.Image = pipe(
        prompt=prompt, image=picture, num_inference_steps=STEPS, guidance_scale=guidance_scale, generator=generator
    ).images[0]
    return image


@pytest.mark.parametrize(("name", "scale"), [("x4", 4), ("latent", 2)])
def test_one_patch_equals_stock_diffusers(folders: Path, name: str, scale: int) -> None:
    picture = a_picture(64, 64)
    ours = enlarged(loaded(folders, name), picture, scale, Guide(seed=5))

    assert ours.size == (64 * scale, 64 * scale)
    assert greatest_difference(ours, by_diffusers(folders, name, picture, seed=5)) <= 1
    assert greatest_difference(ours, enlarged(loaded(folders, name), picture, scale, Guide(seed=6))) > 8
    assert greatest_difference(ours, enlarged(loaded(folders, name), a_picture(64, 64, seed=9), scale, Guide(seed=5))) > 8


@pytest.mark.parametrize(("name", "guidance_scale"), [("x4", 9.0), ("latent", 1.0)])
def test_the_words_of_a_drawing_lead_as_in_stock_diffusers(folders: Path, name: str, guidance_scale: float) -> None:
    picture, model = a_picture(64, 64), loaded(folders, name)
    ours = enlarged(model, picture, model.scale, Guide("a red circle", seed=5))

    stock = by_diffusers(folders, name, picture, seed=5, prompt="a red circle", guidance_scale=guidance_scale)
    assert greatest_difference(ours, stock) <= 1
    assert greatest_difference(ours, enlarged(model, picture, model.scale, Guide(seed=5))) > 1


def test_without_words_guidance_would_change_nothing(folders: Path) -> None:
    picture = a_picture(64, 64)
    guided = by_diffusers(folders, "x4", picture, seed=5, guidance_scale=9.0)
    assert greatest_difference(enlarged(loaded(folders, "x4"), picture, 4, Guide(seed=5)), guided) <= 1


@pytest.mark.parametrize(("name", "scale"), [("x4", 2), ("x4", 1.5), ("latent", 4), ("latent", 1)])
def test_any_scale_is_the_pipelines_own_picture_resized(folders: Path, name: str, scale: float) -> None:
    picture, model = a_picture(64, 64), loaded(folders, name)
    own = by_diffusers(folders, name, picture, seed=5)
    wanted = own.resize((round(64 * scale), round(64 * scale)), Image.Resampling.LANCZOS)
    assert greatest_difference(enlarged(model, picture, scale, Guide(seed=5)), wanted) <= 2


@pytest.mark.parametrize("size", [(1, 1), (37, 23), (3, 90)])
@pytest.mark.parametrize("name", list(PIPELINES))
def test_pictures_of_any_size_keep_it(folders: Path, name: str, size: tuple[int, int]) -> None:
    assert enlarged(loaded(folders, name, steps=1), a_picture().resize(size), 3).size == (3 * size[0], 3 * size[1])


@pytest.mark.parametrize(
    ("width", "height", "side", "grain"), [(128, 64, 128, 8), (136, 264, 128, 8), (512, 320, 256, 64), (1024, 1024, 128, 8)]
)
def test_patches_cover_the_picture_and_overlap_their_neighbours(width: int, height: int, side: int, grain: int) -> None:
    covered = np.zeros((height, width), dtype=int)
    for patch in patches_of(width, height, side_px=side, grain_px=grain):
        covered[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] += 1
        assert max(patch.width, patch.height) <= side
        assert not any(number % grain for number in (patch.left, patch.top, patch.width, patch.height))
        assert patch.left == 0 or patch.overlap_left >= side // 8
        assert patch.top == 0 or patch.overlap_top >= side // 8
    assert covered.min() == 1


def test_patches_of_one_picture_make_that_picture() -> None:
    whole = a_picture(272, 200)
    mosaic = Mosaic((544, 400), 2)
    large = whole.resize((544, 400), Image.Resampling.BICUBIC)
    for patch in patches_of(272, 200, side_px=96, grain_px=8):
        box = (2 * patch.left, 2 * patch.top, 2 * (patch.left + patch.width), 2 * (patch.top + patch.height))
        mosaic.lay(patch, large.crop(box))
    assert greatest_difference(mosaic.picture, large) <= 1


def test_patches_that_differ_fade_into_each_other() -> None:
    mosaic, patches = Mosaic((200, 200), 1), patches_of(200, 200, side_px=80, grain_px=8)
    assert len(patches) == 9
    for number, patch in enumerate(patches):
        mosaic.lay(patch, Image.new("RGB", (80, 80), (25 * number, 0, 200 - 25 * number)))
    pixels = np.asarray(mosaic.picture, dtype=np.int16)
    # Patches differ by up to 100; over an overlap of 16 pixels, none of a pixel's neighbours may be farther away than a few.
    assert max(np.abs(np.diff(pixels, axis=0)).max(), np.abs(np.diff(pixels, axis=1)).max()) <= 8


@pytest.mark.parametrize(("name", "length", "patch_px"), [("x4", 48, 32), ("latent", 192, 128)])
def test_a_picture_of_several_patches_is_about_the_one_drawn_whole(folders: Path, name: str, length: int, patch_px: int) -> None:
    picture = a_picture(length, length // 3)
    whole, patched, other = (
        np.asarray(enlarged(loaded(folders, name, patch_px=side), picture, 2, Guide(seed=seed)), dtype=np.int16)
        for side, seed in ((length, 5), (patch_px, 5), (length, 6))
    )
    # Beyond what a network sees of it, a patch knows nothing of the picture: alike, not the same.
    assert np.abs(whole - patched).mean() < np.abs(whole - other).mean() / 2


def a_studio(folders: Path, *, patch_px: int = 64) -> Studio:
    return Studio(upscalers={"x4": loaded(folders, "x4", patch_px=patch_px)})


def an_upscale(picture: Image.Image, **changes: object) -> Upscale:
    values = {"init_image": "inputs/x.png", "width": picture.width, "height": picture.height, "scale": 2, "upscaler": "x4", "seed": 5}
    return Upscale.model_validate({**values, **changes})


def test_every_step_of_every_patch_is_told_and_drawing_goes_on_between_them(folders: Path) -> None:
    studio, picture = a_studio(folders), a_picture(100, 60)
    asked = studio.ask(an_upscale(picture), picture)
    studio.ask(a_request(steps=2))
    studio.draw()

    assert greatest_difference(asked.image, enlarged(loaded(folders, "x4", patch_px=64), picture, 2, Guide(seed=5))) <= 1
    turns = asked.progress[-1].steps
    assert turns == (STEPS + 1) * 2
    assert [progress.step for progress in asked.progress] == list(range(1, turns + 1))
    assert studio.order.index("done 1") < studio.order.index("done 0")


def test_a_cancelled_one_ends_within_a_step_and_leaves_no_thread(folders: Path) -> None:
    studio, picture = a_studio(folders), a_picture(100, 60)

    def cancel_at_the_second(progress: Progress) -> None:
        if progress.step == 2:
            asked.ticket.cancelled.set()

    asked = studio.ask(an_upscale(picture), picture, on_step=cancel_at_the_second)
    studio.draw()

    assert asked.results == [Stopped()]
    assert len(asked.progress) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sdapi-x4")]


def test_a_drawing_is_enlarged_by_its_own_words_and_seed(folders: Path) -> None:
    studio = a_studio(folders)
    asked = studio.ask(a_request(steps=2, samples=2, upscale=2, upscaler="x4"))
    studio.draw()

    (result,) = asked.results
    for image, seed in zip(result.images, (7, 8), strict=True):  # type: ignore[union-attr]
        plain, words = draw_alone(a_request(steps=2, seed=seed)), Guide("a red circle on a blue background", seed)
        assert greatest_difference(image, enlarged(loaded(folders, "x4", patch_px=64), plain, 2, words)) <= 8


def test_a_picture_too_large_to_hold_is_refused(folders: Path) -> None:
    with pytest.raises(InvalidRequest, match="million pixels"):
        loaded(folders, "x4").begin((2049, 2048), 1)


def problem(root: Path) -> str:
    (found,) = Assets(root).problems()
    return found.sentence


@pytest.mark.parametrize(
    ("part", "told"), [("low_res_scheduler", "low_res_scheduler"), ("vae", "vae of class AutoencoderKL"), ("unet", "unet")]
)
def test_a_folder_that_lacks_a_part_is_refused_with_its_name(folders: Path, tmp_path: Path, part: str, told: str) -> None:
    copy = shutil.copytree(folders / "upscalers" / "x4", tmp_path / "upscalers" / "x4")
    shutil.rmtree(copy / part)
    assert f"no folder {part}/" in problem(tmp_path)

    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({name: source for name, source in index.items() if name != part}))
    assert told in problem(tmp_path)


def test_a_folder_of_another_pipeline_or_with_code_or_pickles_is_refused(folders: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folders / "upscalers" / "x4", tmp_path / "upscalers" / "x4")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    assert "'StableDiffusionPipeline'" in problem(tmp_path)
    (copy / "model_index.json").write_text(json.dumps({**index, "watermarker": ["upscale.marker", "Marker"]}))
    assert "code that comes with a model is never run" in problem(tmp_path)
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionLatentUpscalePipeline"}))
    assert "7' channels" in problem(tmp_path)
    (copy / "model_index.json").write_text(json.dumps(index))
    (copy / "unet" / "diffusion_pytorch_model.safetensors").rename(copy / "unet" / "diffusion_pytorch_model.bin")
    assert "pickled" in problem(tmp_path)


def test_a_folder_with_one_network_stays_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "upscalers" / "one").mkdir(parents=True)
    save_file({"body.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "upscalers" / "one" / "one.safetensors")
    assert not Assets(tmp_path).get("upscaler", "one").is_pipeline


def test_the_loader_makes_the_right_kind(folders: Path) -> None:
    model = load_upscaler(Assets(folders).get("upscaler", "latent"), device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(model, DiffusionUpscaler)
    assert model.scale == 2


def test_among_checkpoints_it_is_told_where_it_belongs(folders: Path) -> None:
    with pytest.raises(Refused, match="models/upscalers/"):
        inspect_folder(folders / "upscalers" / "x4")


@pytest.mark.parametrize("name", list(PIPELINES))
def test_what_is_fetched_of_a_repository_is_all_it_needs(folders: Path, tmp_path: Path, name: str) -> None:
    whole = folders / "upscalers" / name
    files = {str(file.relative_to(whole)): ListedFile(file.stat().st_size, None) for file in whole.rglob("*") if file.is_file()}
    files["unet/diffusion_pytorch_model.bin"] = files["README.md"] = ListedFile(1, None)
    choice = choose_files(HubListing("", files), "upscaler", prefer_fp16=False)
    assert choice.is_folder
    for there, source in choice.files.items():
        (tmp_path / "upscalers" / name / there).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / source, tmp_path / "upscalers" / name / there)

    model = load_upscaler(Assets(tmp_path).get("upscaler", name), device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(model, DiffusionUpscaler)
