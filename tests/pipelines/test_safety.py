"""The safety checker: what it says of pictures, that it says the same as the library's, and what becomes of damaged ones."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file

from sdapi.catalog import ModelBroken, Refused
from sdapi.catalog.safety import SafetyCheckers
from sdapi.domain.safety import SAFETY_TYPES, SafetyType
from sdapi.engine.covering import covered
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.safety.checker import SafetyChecker, read_checker
from sdapi.pipelines.safety.safety_stage import Question, SafetyStage, Unchecked, Verdict

from .drawing import Studio, a_request
from .safety_files import blue, install_checker, processor, red

CPU = torch.device("cpu")


def noise(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def opened(models_dir: Path) -> SafetyChecker:
    installed = SafetyCheckers(models_dir).used()
    assert installed is not None
    return read_checker(installed, device=CPU)


def answers(stage: SafetyStage, *asked: tuple[Image.Image, ...]) -> list[Verdict]:
    """What the stage says to each, as the loop would have it tended."""
    told: list[Verdict] = []
    woken = threading.Event()
    for images in asked:
        stage.ask(Question(images, told.append))
    for _ in range(400):
        stage.tend(woken.set)
        if len(told) == len(asked):
            break
        woken.wait(0.05)
        woken.clear()
    return told


def test_it_says_of_each_picture_what_the_library_says_of_it(tmp_path: Path) -> None:
    folder = install_checker(tmp_path, [red()], [blue()])
    pictures = [red(), blue(), *(noise(seed, (96, 64)) for seed in range(6)), red().resize((128, 80))]

    flags = opened(tmp_path).are_unsafe(pictures)

    library = StableDiffusionSafetyChecker.from_pretrained(folder)
    pixels = processor()(images=pictures, return_tensors="pt").pixel_values
    _, told = library(clip_input=pixels, images=[np.zeros((1, 1, 3)) for _ in pictures])
    assert list(flags) == told
    assert (flags[0], flags[1], flags[-1]) == (True, False, True)


def test_looking_at_pictures_changes_none_of_them(tmp_path: Path) -> None:
    install_checker(tmp_path, [red()], [blue()])
    picture = red()
    before = picture.tobytes()
    assert opened(tmp_path).are_unsafe([picture]) == (True,)
    assert picture.tobytes() == before


def test_the_folders_of_a_checkpoint_may_be_copied_as_they_are_with_the_names_of_old_files(tmp_path: Path) -> None:
    folder = install_checker(tmp_path, [red()], [blue()])
    for name, files in {"safety_checker": ("config.json", "model.safetensors"), "feature_extractor": ("preprocessor_config.json",)}.items():
        (folder / name).mkdir()
        for file in files:
            shutil.move(folder / file, folder / name / file)
    weights = folder / "safety_checker" / "model.safetensors"
    # As CompVis' own file has them, with what older libraries kept besides.
    tensors = {name.replace("vision_model.", "vision_model.vision_model."): tensor for name, tensor in load_file(weights).items()}
    tensors["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, weights, {"format": "pt"})
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "do_center_crop": True, "resample": 3})
    )

    assert opened(tmp_path).are_unsafe([red(), blue()]) == (True, False)


def test_what_is_missing_is_told_and_hides_no_other_checker(tmp_path: Path) -> None:
    checkers = SafetyCheckers(tmp_path)
    assert checkers.used() is None
    folder = install_checker(tmp_path, [red()], [blue()], name="a")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(Refused, match=r"models/safety/a/ can't be used: preprocessor_config.json is missing"):
        checkers.used()
    install_checker(tmp_path, [red()], [blue()], name="b")
    used = checkers.used()
    assert used is not None
    assert used.id == "b"
    assert [problem.path.name for problem in checkers.problems()] == ["a"]


def test_weights_of_something_else_are_told_from_the_header(tmp_path: Path) -> None:
    folder = install_checker(tmp_path, [red()], [blue()])
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    (problem,) = SafetyCheckers(tmp_path).problems()
    assert "It has no concept_embeds, so it is not a safety checker" in problem.sentence


def test_weights_that_are_no_numbers_or_not_all_there_are_refused_rather_than_passing_every_picture(tmp_path: Path) -> None:
    weights = install_checker(tmp_path, [red()], [blue()]) / "model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "visual_projection.weight": tensors["visual_projection.weight"] * torch.nan}, weights, {"format": "pt"})
    with pytest.raises(ModelBroken, match=r"models/safety/checker/ can't be used: Its visual_projection\.weight is not all numbers"):
        opened(tmp_path)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, weights, {"format": "pt"})
    with pytest.raises(ModelBroken, match="It lacks weights such as vision_model"):
        opened(tmp_path)


def test_a_replaced_checker_is_read_anew_and_a_damaged_one_is_told_to_each_who_asks(tmp_path: Path) -> None:
    install_checker(tmp_path, [red()], [blue()])
    stage = SafetyStage(SafetyCheckers(tmp_path), Memory(2**30), device=CPU)
    assert answers(stage, (red(), blue()), (blue(),)) == [(True, False), (False,)]
    assert stage.evict_idle() > 0

    folder = install_checker(tmp_path, [blue()], [red()])
    assert answers(stage, (red(), blue())) == [(False, True)]

    (folder / "config.json").write_text("{")
    for _ in range(2):
        (told,) = answers(stage, (red(),))
        assert isinstance(told, Unchecked)
        assert "models/safety/checker/ can't be loaded" in told.reason
    stage.close()


def test_no_thread_outlives_its_look_at_a_picture(tmp_path: Path) -> None:
    install_checker(tmp_path, [red()], [blue()])
    stage = SafetyStage(SafetyCheckers(tmp_path), Memory(2**30), device=CPU)
    assert answers(stage, (red(),)) == [(True,)]
    for thread in ours():
        thread.join(10)
    assert ours() == []
    stage.close()


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("sdapi-safety", "sdapi-loader")]


def test_whoever_still_waits_is_answered_when_it_closes(tmp_path: Path) -> None:
    install_checker(tmp_path, [red()], [blue()])
    stage = SafetyStage(SafetyCheckers(tmp_path), Memory(2**30), device=CPU)
    told: list[Verdict] = []
    for _ in range(3):
        stage.ask(Question((red(),), told.append))
    stage.tend(lambda: None)
    stage.close()
    assert len(told) == 3
    assert all(isinstance(one, Unchecked) for one in told)


def test_a_picture_is_checked_beside_the_drawing_of_another(tmp_path: Path) -> None:
    install_checker(tmp_path, [red()], [blue()])
    studio = Studio(safety=SafetyCheckers(tmp_path))
    told: list[Verdict] = []
    steps_when_told: list[int] = []

    def note(verdict: Verdict) -> None:
        told.append(verdict)
        steps_when_told.append(len(asked.progress))

    # Each step gives the other threads time, until the answer is there.
    asked = studio.ask(a_request(steps=50), on_step=lambda _: None if told else time.sleep(0.1))
    studio.loop.check((red(), blue()), note)
    studio.draw()
    assert told == [(True, False)]
    assert steps_when_told[0] < 50
    assert len(asked.progress) == 50


@pytest.mark.parametrize("how", SAFETY_TYPES)
@pytest.mark.parametrize("size", [(64, 64), (512, 512), (768, 128), (64, 1024)])
def test_what_is_covered_keeps_its_size_and_loses_its_details(how: SafetyType, size: tuple[int, int]) -> None:
    original = Image.effect_noise(size, 90).convert("RGB")
    original.info["parameters"] = "secret"
    hidden = covered(original, how)
    assert (hidden.size, hidden.mode, hidden.info) == (size, "RGB", {})
    # Neighbours differ a lot in noise; what is covered has next to no edges but those of its blocks and letters.
    if how in ("black", "blur"):
        assert np.abs(np.diff(np.asarray(hidden, dtype=int), axis=0)).mean() < 2
    if how == "pixelate":
        rows, columns = (len({array.tobytes() for array in np.moveaxis(np.asarray(hidden), axis, 0)}) for axis in (0, 1))
        assert max(rows, columns) <= 16


def test_black_is_black_and_the_rest_tells_what_colour_there_was() -> None:
    half = Image.new("RGB", (128, 128), (250, 10, 10))
    half.paste((10, 10, 250), (64, 0, 128, 128))
    assert covered(half, "black").getextrema() == ((0, 0), (0, 0), (0, 0))
    for how in ("blur", "pixelate"):
        left, right = (covered(half, how).getpixel((x, 64)) for x in (4, 123))
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        assert left[0] > 180 > 90 > left[2]
        assert right[2] > 180 > 90 > right[0]


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (512, 512), (768, 128), (64, 1024)])
def test_the_text_stands_in_the_middle_and_within_the_picture(size: tuple[int, int]) -> None:
    written = np.asarray(covered(Image.new("RGB", size, "white"), "sensitive_content_text")).min(axis=2) > 200
    rows, columns = (np.flatnonzero(written.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    assert abs((top + bottom) / 2 - size[1] / 2) < 0.06 * size[1]
    assert abs((left + right) / 2 - size[0] / 2) < 0.06 * size[0]
    assert right - left > 0.5 * min(size[0], 4 * size[1])
    assert min(top, left, size[1] - bottom, size[0] - right) > 0
