"""Pictures sent as files are drawn from as the same pictures in base64 are, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.open_files import open_in

from .running import Running, eventually, running, settings_for

SIDE = 64
DRAWN = {
    "prompt": "a red circle on a blue background",
    "model_id": "demo",
    "width": str(SIDE),
    "height": str(SIDE),
    "num_inference_steps": "4",
    "strength": "0.6",
    "seed": "7",
}


def a_png(side: int = SIDE, seed: int = 0) -> bytes:
    """Noise, so that it hardly gets smaller."""
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def a_mask() -> bytes:
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (16, 16, 48, 48))
    buffer = BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def left_open(server: Running) -> int:
    """Files under the server's folder for what arrives that are still open, or still have a name."""
    folder = server.settings.data_dir.absolute() / "incoming"
    return open_in(folder) + (len(list(folder.iterdir())) if folder.is_dir() else 0)


async def sent(
    server: Running, path: str, files: Mapping[str, bytes], *, key: str | None = None, filename: str = "a.png", **fields: str
) -> dict[str, Any]:
    """The answer to a form with these files, drawn to its end."""
    form = {name: (filename, content) for name, content in files.items()}
    client, data = (server.client, fields) if key is None else (server.stranger, {"key": key, **fields})
    answer: dict[str, Any] = (await client.post(path, data=data, files=form)).json()
    if answer["status"] == "processing":
        answer = await server.until(answer["id"])
    return answer


async def pixels(server: Running, answer: Mapping[str, Any]) -> bytes:
    assert answer["status"] == "success", answer
    (url,) = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
    return (await server.picture(url)).tobytes()


async def test_every_dialect_draws_from_a_file_what_it_draws_from_base64(server: Running) -> None:
    _, key = await server.services.api_keys.create("boss", "enterprise")
    pictures = {"init_image": a_png()}
    masked = {"init_image": a_png(), "mask_image": a_mask()}
    for path, files in {
        "/sd/img2img": pictures,
        "/api/v3/img2img": pictures,
        "/api/v4/dreambooth/inpaint": masked,
        "/api/v6/images/img2img": pictures,
        "/api/v1/enterprise/img2img": pictures,
        "/api/v1/enterprise/inpaint": masked,
    }.items():
        as_text = {name: base64.b64encode(content).decode() for name, content in files.items()}
        in_base64 = await server.stranger.post(path, json={"key": key, **DRAWN, **as_text})
        as_files = await sent(server, path, files, key=key, **DRAWN)
        assert await pixels(server, as_files) == await pixels(server, in_base64.json()), path
    assert left_open(server) == 0


async def test_a_picture_is_enlarged_from_a_file(server: Running) -> None:
    drawn = await sent(server, "/api/v3/super_resolution", {"url": a_png()}, scale="2")
    url = drawn["output"] if isinstance(drawn["output"], str) else drawn["output"][0]
    assert (await server.picture(url)).size == (2 * SIDE, 2 * SIDE)


async def test_the_answer_repeats_a_file_as_it_repeats_base64_by_an_address_of_ours(server: Running) -> None:
    drawn = await sent(server, "/sd/img2img", {"init_image": a_png()}, filename="../../../secret.png", **DRAWN)
    assert "secret" not in str(drawn)
    kept = await server.picture(drawn["meta"]["init_image"])
    assert kept.convert("RGB").tobytes() == Image.open(BytesIO(a_png())).tobytes()


async def test_the_small_calls_keep_and_look_at_files(server: Running) -> None:
    _, key = await server.services.api_keys.create("boss", "enterprise")
    png = a_png(500)  # large enough to go over the disk
    kept = await sent(server, "/api/v1/enterprise/upload_image", {"base64_image": png}, key=key, image_type="png")
    assert (await server.picture(kept["image_url"])).convert("RGB").tobytes() == Image.open(BytesIO(png)).tobytes()
    cropped = await sent(server, "/api/v3/base64_crop", {"image": png}, crop="true")
    assert (await server.picture(cropped["link"])).size == (500, 500)
    unchecked = await sent(server, "/api/v3/nsfw_image_check", {"init_image": png})
    assert "safety checker" in unchecked["message"]
    assert left_open(server) == 0


async def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, max_image_bytes=400_000, max_body_bytes=1_500_000)) as server:
        fits, too_large = a_png(350), a_png(400)
        assert len(fits) < 400_000 < len(too_large) < 500_000
        for path in ("/sd/img2img", "/api/v3/img2img", "/api/v6/images/img2img"):
            for files, field in (
                ({"init_image": too_large}, "init_image"),
                ({"prompt": fits}, "prompt"),
                ({"init_image": fits[:-1000]}, "init_image"),
                ({"init_image": b"http://there/a.png, said to be a picture"}, "init_image"),
                ({f"f{n}": fits for n in range(5)}, "body"),
            ):
                fields = {name: value for name, value in DRAWN.items() if name not in files}
                answer = await server.client.post(path, data=fields, files={name: ("a.png", it, "image/png") for name, it in files.items()})
                assert answer.status_code == (200 if path.startswith("/api/v3/") else 400)
                assert answer.json()["status"] == "error"
                assert list(answer.json()["message"]) == [field]
                assert left_open(server) == 0


async def test_nothing_of_a_file_is_held_while_its_picture_is_drawn(server: Running) -> None:
    png = a_png(400)
    assert len(png) > 2**18
    fields = {**DRAWN, "width": "256", "height": "256", "num_inference_steps": "50", "strength": "1"}
    held = asyncio.create_task(sent(server, "/sd/img2img", {"init_image": png}, **fields))

    async def look() -> int:
        return next((job["id"] for job in (await server.client.get("/jobs")).json()["jobs"]), 0)

    await server.drawing(await eventually(look))
    assert not held.done()
    assert left_open(server) == 0
    assert (await held)["status"] == "success"


@pytest.mark.parametrize("path", ["/sd/img2img", "/api/v3/base64_crop"])
async def test_the_same_file_twice_is_a_repeat_whatever_it_is_called(tmp_path: Path, path: str) -> None:
    async with running(settings_for(tmp_path, repeats_per_30_s=1)) as server:
        name = "init_image" if path.startswith("/sd/") else "image"
        assert (await sent(server, path, {name: a_png()}, **DRAWN))["status"] == "success"
        again = await sent(server, path, {name: a_png()}, filename="another.png", **DRAWN)
        assert "same request" in str(again)
        assert (await sent(server, path, {name: a_png(seed=1)}, **DRAWN))["status"] == "success"
