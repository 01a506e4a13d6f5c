from __future__ import annotations

import json

import pytest

from sdapi.domain.generation import ControlNet, Img2Img, SchedulerName, Txt2Img, Upscale
from sdapi.png import Hashes, parameters_text, upscaling_text


def a_request(**changes: object) -> Txt2Img:
    """A valid request; say only what the test is about."""
    return Txt2Img.model_validate({"checkpoint": "demo", "prompt": "a cat", "seed": 7, **changes})


def text_of(request: Txt2Img | Img2Img | ControlNet, model: str = "demo", hashes: Hashes | None = None) -> str:
    return parameters_text(request, seed=request.seed, model=model, hashes=hashes or Hashes())


def test_everything_about_a_picture_is_written_in_the_order_of_a1111() -> None:
    request = Img2Img(
        checkpoint="demo",
        prompt="a cat",
        negative_prompt="blurry, grey",
        seed=1,
        steps=20,
        guidance_scale=7.5,
        scheduler=SchedulerName.EULER_ANCESTRAL,
        width=512,
        height=256,
        clip_skip=2,
        init_image="in/a.png",
        strength=0.8,
    )
    assert parameters_text(request, seed=4, model="demo", hashes=Hashes("abc123def4")) == (
        "a cat\nNegative prompt: blurry, grey\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 4, Size: 512x256, Model hash: abc123def4, Model: demo, "
        "Denoising strength: 0.8, Clip skip: 2, Version: sdapi"
    )


def test_what_was_not_asked_for_is_not_written() -> None:
    text = text_of(a_request(guidance_scale=7.0))
    assert text == "a cat\nSteps: 30, CFG scale: 7, Seed: 7, Size: 512x512, Model: demo, Version: sdapi"


def test_what_is_added_to_the_model_is_told_as_a1111_tells_it() -> None:
    request = a_request(
        loras=[{"id": "moxin", "strength": 0.8}, {"id": "sharp", "strength": -0.5}],
        embeddings=["EasyNegative"],
        vae="dark",
        guidance_scale=7,
    )
    told = Hashes("abc123def4", {"moxin": "a1b2c3d4e5f6", "sharp": "0" * 12}, {"EasyNegative": "1" * 12}, "2" * 10)
    assert text_of(request, hashes=told) == (
        "a cat <lora:moxin:0.8> <lora:sharp:-0.5>\nSteps: 30, CFG scale: 7, Seed: 7, Size: 512x512, Model hash: abc123def4, Model: demo, "
        f'VAE hash: {"2" * 10}, VAE: dark, Lora hashes: "moxin: a1b2c3d4e5f6, sharp: {"0" * 12}", TI hashes: "EasyNegative: {"1" * 12}", '
        "Embeddings: EasyNegative, Version: sdapi"
    )


def test_control_nets_are_told_as_the_extension_of_a1111_tells_them() -> None:
    values = {
        "controlnet_models": ["lines", "depth"],
        "controlnet_type": "canny",
        "conditioning_scales": [1, 0.5],
        "control_image": "in/a.png",
    }
    request = ControlNet.model_validate({**a_request().model_dump(exclude={"kind"}), **values})
    pairs = text_of(request)
    assert 'ControlNet 0: "Module: canny, Model: lines, Weight: 1, Control Mode: Balanced"' in pairs
    assert 'ControlNet 1: "Module: canny, Model: depth, Weight: 0.5, Control Mode: Balanced"' in pairs
    assert "Module: none" in text_of(request.model_copy(update={"auto_hint": False}))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"highres_fix": True}, "Denoising strength: 0.6, Highres fix: yes"),
        ({"self_attention": True}, "Self attention: yes"),
        ({"panorama": True}, "Panorama: yes"),
        ({"token_merging": True}, "Token merging: yes"),
        ({"upscale": 2, "upscaler": "sharp-x2"}, "Postprocess upscale by: 2, Postprocess upscaler: sharp-x2"),
    ],
)
def test_what_was_done_besides_is_told(asked: dict[str, object], told: str) -> None:
    assert told in text_of(a_request(**asked))


def test_a_picture_that_was_only_made_larger_says_by_what() -> None:
    request = Upscale(init_image="in/a.png", width=8, height=8, scale=2, upscaler="sharp-x2")
    assert upscaling_text(request) == "Postprocess upscale by: 2, Postprocess upscaler: sharp-x2, Version: sdapi"


@pytest.mark.parametrize("scheduler", SchedulerName)
def test_every_scheduler_has_a_sampler_name(scheduler: SchedulerName) -> None:
    line = text_of(a_request(scheduler=scheduler)).splitlines()[-1]
    sampler = dict(pair.split(": ") for pair in line.split(", "))["Sampler"]
    assert sampler
    assert "Scheduler" not in sampler


@pytest.mark.parametrize(
    ("asked", "sampler"),
    [
        ({"scheduler": SchedulerName.DPM_MULTISTEP, "use_karras_sigmas": True}, "DPM++ 2M Karras"),
        ({"scheduler": SchedulerName.DPM_MULTISTEP, "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE Karras"),
        ({"scheduler": SchedulerName.DPM_SINGLESTEP, "algorithm_type": "sde-dpmsolver++"}, "DPM++ SDE"),
        ({"scheduler": SchedulerName.EULER_ANCESTRAL, "use_karras_sigmas": True}, "Euler a"),
        ({"scheduler": SchedulerName.KARRAS_VE}, "DPM2 a Karras"),
        ({"use_karras_sigmas": True}, None),
    ],
)
def test_the_sampler_is_named_with_its_spacing_and_algorithm(asked: dict[str, object], sampler: str | None) -> None:
    pairs = dict(pair.split(": ") for pair in text_of(a_request(**asked)).splitlines()[-1].split(", "))
    assert pairs.get("Sampler") == sampler


def test_line_breaks_in_prompts_stay_and_the_last_line_is_the_pairs() -> None:
    lines = text_of(a_request(prompt="a cat\non a mat", negative_prompt="grey\nblurry")).split("\n")
    assert lines[:4] == ["a cat", "on a mat", "Negative prompt: grey", "blurry"]
    assert lines[4].startswith("Steps: 30, ")
    assert len(lines) == 5


@pytest.mark.parametrize("model", ["one, two", "a:b", 'a, "b"', "ein\nname"])
def test_a_value_that_would_break_the_line_is_quoted(model: str) -> None:
    assert f", Model: {json.dumps(model)}, Version: sdapi" in text_of(a_request(), model=model)
