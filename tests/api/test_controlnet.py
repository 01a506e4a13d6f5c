"""Pictures led by control nets, through the paths clients use."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene

from tests.pipelines.control_nets import install

from .running import Running, running, settings_for

SHORT = {"model_id": "demo", "prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 5}
LED = {**SHORT, "controlnet_model": "outlines", "controlnet_type": "canny"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    settings = settings_for(tmp_path)
    install(settings.models_dir, "outlines", seed=1)
    install(settings.models_dir, "lines", seed=2)
    async with running(settings) as opened:
        yield opened


def sent(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def a_picture(shape: str = "star") -> str:
    return sent(draw(Scene(shape=shape, colour="yellow", background="black"), 80, 80))


async def post(server: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.client.post(path, json=body)).json()
    return answer


async def difference(server: Running, one: dict[str, Any], other: dict[str, Any]) -> float:
    """Mean absolute difference of two answers' pictures, 0 to 255."""
    first, second = [np.asarray(await server.picture(answer["output"][0]), dtype=np.int16) for answer in (one, other)]
    return float(np.abs(first - second).mean())


async def test_goapi_draws_led_by_the_net_and_tells_it_as_documented(server: Running) -> None:
    plain = await post(server, "/sd/txt2img", SHORT)
    led = await post(server, "/sd/controlnet", {**LED, "init_image": a_picture()})
    again = await post(server, "/sd/controlnet", {**LED, "init_image": a_picture()})
    other = await post(server, "/sd/controlnet", {**LED, "init_image": a_picture("square")})

    assert led["status"] == "success", led
    assert await difference(server, led, plain) > 5
    assert await difference(server, led, other) > 0.1
    assert await difference(server, led, again) == 0
    assert led["meta"]["controlnet_model"] == "outlines"
    assert led["meta"]["controlnet_type"] == "canny"
    assert led["meta"]["guess_mode"] == "no"
    assert led["meta"]["strength"] == "1"


async def test_v5_draws_led_by_several_nets_over_an_init_image(server: Running) -> None:
    body = {**LED, "controlnet_model": "outlines,lines", "controlnet_conditioning_scale": 0.7, "control_image": a_picture()}
    led = await post(server, "/api/v5/controlnet", body)
    over = await post(server, "/api/v5/controlnet", {**body, "init_image": a_picture("square"), "strength": 0.4})

    assert led["status"] == over["status"] == "success", (led, over)
    assert led["meta"]["controlnet_model"] == "outlines,lines"
    assert await difference(server, led, over) > 5


async def test_a_picture_that_is_a_map_already_is_taken_as_it_is(server: Running) -> None:
    body = {**LED, "init_image": a_picture()}
    made = await post(server, "/api/v5/controlnet", body)
    taken = await post(server, "/api/v5/controlnet", {**body, "auto_hint": "no"})
    depth = await post(server, "/api/v5/controlnet", {**body, "auto_hint": "no", "controlnet_type": "depth"})

    assert await difference(server, made, taken) > 0.1
    assert await difference(server, depth, taken) == 0


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        (
            {"controlnet_model": "outlines,blobs"},
            "controlnet_model",
            "no control net named 'blobs' on this server. There are: demo-canny, lines, outlines.",
        ),
        ({"controlnet_type": "depth"}, "controlnet_type", "models/annotators/depth/"),
        ({"controlnet_type": "blobs"}, "controlnet_type", "There is no controlnet_type 'blobs'. This server knows: canny"),
        ({"init_image": None, "control_image": "same", "mask_image": "same"}, "init_image", "required with mask_image"),
    ],
)
async def test_what_can_not_be_led_is_refused_by_its_name_and_nothing_is_recorded(
    server: Running, changes: dict[str, Any], field: str, says: str
) -> None:
    picture = a_picture()
    body = {**LED, "init_image": picture, **{name: picture if value == "same" else value for name, value in changes.items()}}
    answer = await post(server, "/api/v5/controlnet", body)

    assert answer["status"] == "error", answer
    assert says in answer["message"][field][0]
    assert (await server.client.get("/jobs")).json()["jobs"] == []
    assert (await post(server, "/api/v5/controlnet", {**LED, "init_image": picture}))["status"] == "success"


async def test_with_no_net_installed_the_embedded_one_is_named(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server:
        answer = await post(server, "/api/v5/controlnet", {**LED, "init_image": a_picture()})
    assert "no control net named 'outlines' on this server. There are: demo-canny." in answer["message"]["controlnet_model"][0]
