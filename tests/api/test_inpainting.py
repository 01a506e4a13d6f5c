"""The inpainting calls draw the masked part as the prompt says, and leave the rest of the picture as it was."""

from __future__ import annotations

import base64
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image
from recipe.detector import detect
from recipe.scenes import COLOURS
from torch.nn import functional

from sdapi.catalog import embedded_model_dir

from .running import HOST, Running, running, settings_for

SIDE = 128
BOX = (16, 16, 112, 112)
ENTERPRISE = "/api/v1/enterprise/inpaint"


def in_base64(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def a_blue_picture() -> Image.Image:
    """Blue, not quite evenly, so that a picture that was only redrawn alike would be noticed."""
    shades = np.tile(np.array(COLOURS["blue"], dtype=np.int16), (SIDE, SIDE, 1))
    shades[:, :, 1] += np.arange(SIDE, dtype=np.int16)[None] % 16
    return Image.fromarray(shades.clip(0, 255).astype(np.uint8))


def a_mask(mode: str = "L") -> Image.Image:
    """White in the middle; as RGBA the middle is a hole in something dark."""
    mask = Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 255)) if mode == "RGBA" else Image.new(mode, (SIDE, SIDE))
    mask.paste((0, 0, 0, 0) if mode == "RGBA" else 255, BOX)
    return mask


def a_body(**changes: object) -> dict[str, object]:
    return {
        "model_id": "demo",
        "prompt": "a red circle on a blue background",
        "init_image": "data:image/png;base64," + in_base64(a_blue_picture()),
        "mask_image": "data:image/png;base64," + in_base64(a_mask()),
        "width": str(SIDE),
        "height": str(SIDE),
        "samples": "1",
        "num_inference_steps": "21",
        "guidance_scale": 5,
        "strength": 1,
        "seed": 3,
        **changes,
    }


async def post(server: Running, path: str, body: dict[str, object]) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.client.post(path, json=body)).json()
    return answer


def mean_difference_outside(one: Image.Image, other: Image.Image) -> float:
    """0..255, of all pixels outside the mask."""
    difference = np.abs(np.asarray(one.convert("RGB"), dtype=np.float32) - np.asarray(other, dtype=np.float32)).mean(-1)
    return float(difference[np.asarray(a_mask()) == 0].mean())


def assert_repainted(picture: Image.Image) -> None:
    assert picture.size == (SIDE, SIDE)
    assert mean_difference_outside(picture, a_blue_picture()) < 3
    finding = detect(picture)
    assert (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")


@pytest.mark.parametrize("path", ["/api/v3/inpaint", "/api/v4/dreambooth/inpaint", "/api/v6/images/inpaint"])
async def test_the_middle_of_a_blue_picture_becomes_a_red_circle_and_the_rest_stays(server: Running, path: str) -> None:
    answer = await post(server, path, a_body())
    assert answer["status"] == "success", answer
    assert_repainted(await server.picture(answer["output"][0]))
    meta = answer["meta"]
    assert meta["prompt"] == "a red circle on a blue background"
    assert (meta["W"], meta["H"], meta["steps"], meta["seed"]) == (SIDE, SIDE, 21, 3)
    for name, mode in (("init_image", "RGB"), ("mask_image", "L")):
        assert meta[name].startswith(f"{HOST}/images/")
        stored = await server.picture(meta[name])
        assert (stored.size, stored.mode) == ((SIDE, SIDE), mode)
    assert meta.get("strength", 1) == 1


async def test_pictures_may_be_plain_base64_of_any_size_and_the_mask_a_hole(server: Running) -> None:
    pictures = {
        "init_image": in_base64(a_blue_picture()),
        "mask_image": in_base64(a_mask("RGBA").resize((512, 256), Image.Resampling.NEAREST)),
    }
    answer = await post(server, "/api/v3/inpaint", a_body(base64="yes", **pictures))
    assert answer["status"] == "success", answer
    text = await server.stranger.get(answer["output"][0])
    assert_repainted(Image.open(BytesIO(base64.b64decode(text.text))))


async def test_pictures_of_this_server_can_be_repainted_through_any_path(server: Running) -> None:
    drawn = await server.drawn(prompt="a yellow star on a blue background", width=SIDE, height=SIDE, num_inference_steps=21, seed=3)
    url = drawn["output"][0]
    before = (await server.picture(url)).convert("RGB")
    for path in ("/api/v3/dreambooth/inpaint", "/api/v6/realtime/inpaint", "/api/v6/image_editing/inpaint"):
        answer = await post(server, path, a_body(init_image=url))
        assert answer["status"] == "success", answer
        picture = await server.picture(answer["output"][0])
        assert mean_difference_outside(picture, before) < 3
        assert detect(picture).colour == "red"


async def test_two_samples_differ_inside_and_agree_outside(server: Running) -> None:
    answer = await post(server, "/api/v3/inpaint", a_body(samples=2, num_inference_steps=4))
    first, second = [(await server.picture(url)).convert("RGB") for url in answer["output"]]
    assert first.tobytes() != second.tobytes()
    assert mean_difference_outside(first, second) < 3


async def test_the_picture_remembers_how_it_was_made(server: Running) -> None:
    answer = await post(server, "/api/v3/inpaint", a_body(strength=0.75, num_inference_steps=4))
    text = (await server.picture(answer["output"][0])).info["parameters"]
    assert text.startswith("a red circle on a blue background\n")
    assert "Denoising strength: 0.75" in text


@pytest.mark.parametrize("field", ["init_image", "mask_image"])
async def test_what_is_no_picture_is_refused_by_its_name_and_the_next_request_is_unharmed(server: Running, field: str) -> None:
    refused = await post(server, "/api/v3/inpaint", a_body(**{field: base64.b64encode(b"no picture at all").decode()}))
    assert refused["status"] == "error"
    assert field in str(refused["message"])
    missing = await post(server, "/api/v3/inpaint", a_body(**{field: None}))
    assert missing["status"] == "error"
    assert field in str(missing["message"])
    assert (await post(server, "/api/v3/inpaint", a_body(num_inference_steps=2)))["status"] == "success"


async def test_an_inpainting_model_in_the_models_folder_repaints_and_draws_without_a_mask(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    demo = embedded_model_dir()
    assert demo is not None
    folder = settings.models_dir / "checkpoints" / "repainter"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("recipe", "*.md", "unet", "sidecar.toml"))
    plain = UNet2DConditionModel.from_pretrained(demo / "unet", local_files_only=True)
    unet = UNet2DConditionModel.from_config({**plain.config, "in_channels": 9})
    # The new channels are not trained: with zeros the model draws as the embedded one, so that its pictures can be judged.
    state = plain.state_dict()
    state["conv_in.weight"] = functional.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, 5))
    unet.load_state_dict(state)
    unet.save_pretrained(folder / "unet")

    async with running(settings) as server:
        repainted = await post(server, "/api/v4/dreambooth/inpaint", a_body(model_id="repainter"))
        assert repainted["status"] == "success", repainted
        picture = await server.picture(repainted["output"][0])
        assert mean_difference_outside(picture, a_blue_picture()) < 3
        assert detect(picture).colour == "red"
        drawn = await post(server, "/api/v4/dreambooth", a_body(model_id="repainter"))
        assert drawn["status"] == "success", drawn
        assert detect(await server.picture(drawn["output"][0])).colour == "red"


async def test_enterprise_keys_can_inpaint_too(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server:
        _, key = await server.services.api_keys.create("firm", "enterprise")
        body = a_body(key=key, num_inference_steps=4)
        answer = (await server.stranger.post(ENTERPRISE, json=body)).json()
        assert answer["status"] == "success", answer
        assert mean_difference_outside(await server.picture(answer["output"][0]), a_blue_picture()) < 3
