"""POST /sd/txt2img and /sd/img2img draw what the prompt says."""

from __future__ import annotations

import asyncio
import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import Scene

from .running import HOST, Running, running, settings_for

GOLDEN = Path(__file__).parents[1] / "golden" / "goapi"


@pytest.mark.parametrize(
    ("prompt", "background", "colour", "shape"),
    [
        ("a red circle on a blue background", "blue", "red", "circle"),
        ("a yellow star on a purple background", "purple", "yellow", "star"),
        ("white background, a black heart", "white", "black", "heart"),
    ],
)
async def test_the_picture_shows_what_the_prompt_says(server: Running, prompt: str, background: str, colour: str, shape: str) -> None:
    answer = await server.drawn(prompt=prompt, width="128", height="128", num_inference_steps="21", seed=3)
    picture = await server.picture(answer["output"][0])
    assert picture.size == (128, 128)
    finding = detect(picture)
    assert (finding.background, finding.colour, finding.shape) == (background, colour, shape)


async def test_it_works_on_every_database(database_url: str, tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, database_url=database_url)) as server:
        answer = await server.drawn(num_inference_steps=4)
        fetched = (await server.stranger.post("/sd/fetch", json={"id": answer["id"]})).json()
        assert fetched == {"status": "success", "id": answer["id"], "output": answer["output"]}


async def test_the_answer_has_the_documented_keys_and_types(server: Running) -> None:
    sample: dict[str, Any] = json.loads((GOLDEN / "txt2img_success.json").read_text())
    answer = await server.drawn(model_id="demo", num_inference_steps="5")
    assert answer.keys() == sample.keys()
    assert answer["meta"].keys() == sample["meta"].keys()
    assert {k: type(v) for k, v in answer["meta"].items()} == {k: type(v) for k, v in sample["meta"].items()}
    assert (answer["meta"]["W"], answer["meta"]["H"], answer["meta"]["steps"]) == (64, 64, 5)


async def test_the_documented_body_with_its_strings_and_nulls_is_read(server: Running) -> None:
    body = {
        "model_id": "demo",
        "prompt": "a cat",
        "negative_prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl",
        "width": "64",
        "height": "64",
        "seed": None,
        "lora_model": None,
        "lora_strength": None,
        "steps": 4,
    }
    response = await server.client.post("/sd/txt2img", json=body)
    assert response.json()["status"] == "success"
    assert response.json()["meta"]["steps"] == 4
    form = await server.client.post("/sd/txt2img/", data={k: v for k, v in body.items() if isinstance(v, str)} | {"steps": "4"})
    assert form.json()["status"] == "success"


async def test_the_same_seed_gives_the_same_picture_and_another_a_different_one(server: Running) -> None:
    pictures = []
    for seed in (5, "5", 6):
        answer = await server.drawn(seed=seed, num_inference_steps=4)
        pictures.append((await server.picture(answer["output"][0])).tobytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


async def test_seed_zero_is_a_seed_and_minus_one_is_not(server: Running) -> None:
    assert (await server.drawn(seed=0, num_inference_steps=2))["meta"]["seed"] == 0
    assert (await server.drawn(seed=-1, num_inference_steps=2))["meta"]["seed"] > 0


async def test_eight_requests_at_once_all_succeed_each_with_its_own_seed_and_size(server: Running) -> None:
    async def one(number: int) -> None:
        size = 64 + 16 * (number % 4)
        answer = await server.drawn(seed=number, width=size, height=size, num_inference_steps=4 + number)
        assert answer["meta"]["seed"] == number
        assert (await server.picture(answer["output"][0])).size == (size, size)

    await asyncio.gather(*(one(number) for number in range(8)))


async def test_pictures_carry_their_parameters_as_a1111_writes_them(server: Running) -> None:
    answer = await server.drawn(seed=7, num_inference_steps=4, negative_prompt="blurry")
    text = (await server.picture(answer["output"][0])).info["parameters"]
    assert text.startswith("a red circle on a blue background\nNegative prompt: blurry\nSteps: 4, ")
    for part in ("Seed: 7", "Size: 64x64", "Model: demo", "CFG scale: 7.5", "Sampler: DPM++ 2M"):
        assert part in text


async def test_a_setting_keeps_the_parameters_out(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, png_metadata=False)) as server:
        answer = await server.drawn(num_inference_steps=2)
        assert not (await server.picture(answer["output"][0])).info.get("parameters")


def a_green_square() -> bytes:
    buffer = BytesIO()
    draw(Scene(shape="square", colour="green", background="white"), 128, 128).save(buffer, "PNG")
    return buffer.getvalue()


async def serve_bytes(content: bytes) -> tuple[asyncio.Server, str]:
    """A web server of one picture on a free port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/square.png"


@pytest.mark.parametrize("source", ["url", "data", "base64", "own"])
async def test_img2img_keeps_the_shape_and_changes_the_colour_from_any_kind_of_source(server: Running, source: str) -> None:
    encoded = base64.b64encode(a_green_square()).decode()
    web, url = await serve_bytes(a_green_square())
    if source == "own":
        drawn = await server.drawn(prompt="a green square on a white background", width=128, height=128, num_inference_steps=21, seed=2)
        url = drawn["output"][0]
    sources = {"url": url, "data": f"data:image/png;base64,{encoded}", "base64": encoded, "own": url}
    answer = await server.drawn(
        "/sd/img2img",
        prompt="a purple square on a white background",
        init_image=sources[source],
        strength=0.8,
        width=128,
        height=128,
        num_inference_steps=25,
        seed=4,
    )
    web.close()
    assert answer["meta"]["strength"] == 0.8
    assert answer["meta"]["init_image"].startswith(f"{HOST}/images/")
    assert (await server.picture(answer["meta"]["init_image"])).size == (128, 128)
    finding = detect(await server.picture(answer["output"][0]))
    assert (finding.background, finding.colour, finding.shape) == ("white", "purple", "square")


async def test_a_low_strength_keeps_the_picture(server: Running) -> None:
    encoded = base64.b64encode(a_green_square()).decode()
    answer = await server.drawn("/sd/img2img", prompt="a red star", init_image=encoded, strength=0.1, width=128, height=128, seed=1)
    assert detect(await server.picture(answer["output"][0])).shape == "square"


async def test_a_checkpoint_alias_of_the_settings_draws_and_keeps_the_name_that_was_asked_for(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, model_aliases={"midjourney": "demo"})) as server:
        answer = await server.drawn(model_id="midjourney", num_inference_steps=2)
        assert answer["meta"]["model_id"] == "midjourney"


async def test_pictures_are_served_with_type_and_caching_headers(server: Running) -> None:
    answer = await server.drawn(num_inference_steps=2)
    response = await server.stranger.get(answer["output"][0])
    assert response.headers["content-type"] == "image/png"
    assert "max-age" in response.headers["cache-control"]
    again = await server.stranger.get(answer["output"][0], headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304
