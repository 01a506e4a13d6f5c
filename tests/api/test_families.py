"""Stable Diffusion XL and 2.x through the front door: dropped into the folder, listed, drawn with together, and refused by field."""

from __future__ import annotations

import asyncio
import base64
import shutil
from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.pipelines.drawing import greatest_difference
from tests.pipelines.tiny_families import SD2_V, XL, Kind, models_dir

from .running import Running

ASKED: dict[str, Any] = {"prompt": "a cat", "seed": 7, "num_inference_steps": 3}
VISIBLE = 10


def install(server: Running, kind: Kind, name: str) -> None:
    shutil.copytree(models_dir(kind) / "checkpoints" / "tiny", server.settings.models_dir / "checkpoints" / name)


def in_base64(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(("kind", "family"), [(XL, "sdxl"), (SD2_V, "sd2")])
async def test_a_model_dropped_into_the_folder_is_listed_and_drawn_with_in_every_way(server: Running, kind: Kind, family: str) -> None:
    install(server, kind, "tiny")
    assert server.services.catalog.get("tiny").family == family
    listed = await server.stranger.post("/api/v4/dreambooth/model_list", json={"key": server.client.headers["X-API-KEY"]})
    assert "tiny" in listed.text
    plain = await server.picture((await server.drawn(**ASKED, model_id="tiny"))["output"][0])
    assert plain.size == (64, 64)
    grey = in_base64(Image.new("RGB", (64, 64), "grey"))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    over = await server.drawn("/sd/img2img", **ASKED, model_id="tiny", init_image=grey, strength=0.7)
    assert greatest_difference(await server.picture(over["output"][0]), plain) >= VISIBLE
    body = {"key": server.client.headers["X-API-KEY"], "width": "64", "height": "64", "model_id": "tiny", "samples": "1", **ASKED}
    within = {"init_image": grey, "mask_image": in_base64(mask), "strength": 1}
    for path, more in (("/api/v4/dreambooth", {"negative_prompt": "zebra"}), ("/api/v4/dreambooth/inpaint", within)):
        answer = (await server.stranger.post(path, json={**body, **more})).json()
        assert answer["status"] == "success", answer
        assert greatest_difference(await server.picture(answer["output"][0]), plain) >= VISIBLE


async def test_pictures_of_several_families_asked_for_at_once_are_the_ones_drawn_alone(server: Running) -> None:
    for kind, name in ((XL, "tiny-xl"), (SD2_V, "tiny-two")):
        install(server, kind, name)
    bodies = [{**ASKED, "model_id": name, "seed": seed} for name in ("tiny-xl", "demo", "tiny-two") for seed in (1, 2)]
    together = await asyncio.gather(*(server.drawn(**body) for body in bodies))
    alone = [await server.drawn(**body) for body in bodies]
    for one, other in zip(together, alone, strict=True):
        assert greatest_difference(await server.picture(one["output"][0]), await server.picture(other["output"][0])) <= 2


async def test_a_lora_of_another_family_fails_its_job_by_field(server: Running) -> None:
    install(server, XL, "tiny")
    folder = server.settings.models_dir / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{stem}.lora_down.weight": torch.ones(4, 768), f"{stem}.lora_up.weight": torch.ones(32, 4)}, folder / "old.safetensors")
    body = {"key": server.client.headers["X-API-KEY"], "width": "64", "height": "64", "model_id": "tiny", **ASKED}
    answer = (await server.stranger.post("/api/v4/dreambooth", json={**body, "lora_model": "old"})).json()
    assert "can't be used with the model 'tiny'" in str(answer)
    assert "lora_model" in str(answer)
    assert (await server.stranger.post("/api/v4/dreambooth", json=body)).json()["status"] == "success"


async def test_joined_prompts_are_drawn_and_too_many_refused(server: Running) -> None:
    plain, joined = [
        await server.picture((await server.drawn(**{**ASKED, "prompt": prompt}))["output"][0])
        for prompt in ("a red circle", "a red circle AND a green star :0.8")
    ]
    assert greatest_difference(plain, joined) >= VISIBLE
    for prompt, words in ((" AND ".join("abcdefghi"), "8 can be joined"), ("a AND b :21", "the weight 21")):
        response = await server.client.post("/sd/txt2img", json={**ASKED, "prompt": prompt})
        assert words in response.text
        assert "prompt" in response.text
