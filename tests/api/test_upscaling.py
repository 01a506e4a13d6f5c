"""Making pictures larger through the front door: every endpoint, every field, and what is refused before it is recorded."""

from __future__ import annotations

import base64
import io
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import draw_scene
from safetensors.torch import save_file
from sqlalchemy import func, select

from sdapi.db.tables import JobRow
from tests.pipelines.face_onnx import write_face_model
from tests.pipelines.tiny_faces import constant_face_tensors
from tests.pipelines.tiny_upscalers import write_upscaling_folder
from tests.pipelines.upscaler_nets import compact_tensors, dense_tensors, in_first_layout

from .running import Running, eventually, running, settings_for

HELD_OUT = draw(draw_scene(random.Random(11), held_out=True), 128, 128)
"""A drawing of a combination that no training has seen."""
SMALL = HELD_OUT.resize((64, 64), Image.Resampling.BOX)
ENTERPRISE_KEY = "enterprise-key-of-the-test"
CALLS: dict[str, type] = {
    "/sd/upscale": str,
    "/api/v3/super_resolution": str,
    "/api/v5/super_resolution": str,
    "/api/v6/image_editing/super_resolution": list,
    "/api/v1/enterprise/super_resolution": str,
    "/api/v1/enterprise/image_editing/super_resolution": str,
}
"""Every way to ask, and what it puts around the link."""


def sent(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def psnr_db(picture: Image.Image, original: Image.Image) -> float:
    error = np.asarray(picture, dtype=np.float64) - np.asarray(original, dtype=np.float64)
    return 10 * math.log10(255**2 / max(1e-9, float((error**2).mean())))


async def asked(server: Running, path: str = "/sd/upscale", /, **body: object) -> dict[str, Any]:
    key = ENTERPRISE_KEY if "enterprise" in path else server.client.headers["X-API-KEY"]
    answer: dict[str, Any] = (await server.stranger.post(path, json={"key": key, **body}, headers={"X-API-KEY": key})).json()
    return answer


async def picture_of(server: Running, answer: dict[str, Any]) -> Image.Image:
    assert answer["status"] == "success", answer
    output = answer["output"]
    return await server.picture(output if isinstance(output, str) else output[0])


@pytest.fixture
def folder(server: Running) -> Path:
    """Where upscalers are put."""
    folder: Path = server.settings.models_dir / "upscalers"
    folder.mkdir(parents=True)
    return folder


async def test_every_call_makes_a_drawing_larger_and_better_than_lanczos_does(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, api_key=ENTERPRISE_KEY, repeats_per_30_s=0)) as server:
        for path, around in CALLS.items():
            answer = await asked(server, path, url=sent(SMALL), scale=2)
            assert isinstance(answer["output"], around), path
            assert "meta" not in answer
            enlarged = await picture_of(server, answer)
            assert enlarged.size == (128, 128)
            assert enlarged.mode == "RGB"
            assert psnr_db(enlarged, HELD_OUT) > psnr_db(SMALL.resize((128, 128), Image.Resampling.LANCZOS), HELD_OUT) + 4

            if path == "/sd/upscale":
                fetched = await asked(server, "/sd/fetch", id=answer["id"])
                assert (fetched["status"], fetched["output"]) == ("success", [answer["output"]])


async def test_the_picture_has_the_size_asked_for_and_still_shows_what_it_showed(server: Running) -> None:
    for scale, side_px in ((1, 64), (1.5, 96), ("3", 192), (4, 256), (None, 128)):
        scaled: dict[str, object] = {} if scale is None else {"scale": scale}
        enlarged = await picture_of(server, await asked(server, url=sent(SMALL), **scaled))

        assert enlarged.size == (side_px, side_px)
        found, there = detect(enlarged), detect(HELD_OUT)
        assert (found.shape, found.colour, found.background) == (there.shape, there.colour, there.background)


async def test_an_installed_upscaler_is_used_by_its_name_and_by_default_when_it_is_the_documented_one(
    server: Running, folder: Path
) -> None:
    save_file(in_first_layout(dense_tensors()), folder / "4x_old.safetensors")
    embedded = await picture_of(server, await asked(server, url=sent(SMALL), model_id="demo-x2"))
    named = await picture_of(server, await asked(server, url=sent(SMALL), model_id="4x_old"))
    assert psnr_db(named, embedded) < 25

    save_file(compact_tensors(seed=4), folder / "realesr-general-x4v3.safetensors")
    await eventually(lambda: listed(server, "realesr-general-x4v3"))
    documented = await picture_of(server, await asked(server, url=sent(SMALL), model_id="realesr-general-x4v3"))
    default = await picture_of(server, await asked(server, url=sent(SMALL)))
    assert np.array_equal(np.asarray(default), np.asarray(documented))
    assert default.info["parameters"] == "Postprocess upscale by: 2, Postprocess upscaler: realesr-general-x4v3, Version: sdapi"


async def listed(server: Running, upscaler_id: str) -> bool:
    return any(asset.id == upscaler_id for asset in server.services.assets.all("upscaler"))


REFUSED: tuple[tuple[dict[str, object], str, str], ...] = (
    ({"model_id": "realesr-general-x4v3"}, "model_id", "There are: demo-x2. Upscalers belong into models/upscalers/"),
    ({"model_id": "RealESRGAN_x4plus"}, "model_id", "RealESRGAN_x4plus.pth can't be used"),
    ({"model_id": "RealESRGAN_x4plus"}, "model_id", "sdapi models convert"),
    ({"model_id": "demo"}, "model_id", "no upscaler named 'demo'"),
    ({"scale": 5}, "scale", "4"),
    ({"scale": 0}, "scale", "1"),
    ({"face_enhance": True}, "face_enhance", "GFPGAN"),
)


async def test_what_can_not_be_done_is_told_with_its_field(server: Running, folder: Path) -> None:
    torch.save({"params": dense_tensors()}, folder / "RealESRGAN_x4plus.pth")
    for body, field, told in REFUSED:
        answer = await asked(server, "/api/v3/super_resolution", url=sent(SMALL), **body)
        assert answer["status"] == "error", answer
        assert told in str(answer["message"]), answer
        assert field in str(answer["message"])


async def test_what_is_no_picture_or_would_become_too_large_is_refused(server: Running) -> None:
    no_picture = await asked(server, "/api/v3/super_resolution", url="data:image/png;base64," + base64.b64encode(b"not a picture").decode())
    assert no_picture["status"] == "error"
    assert "url" in str(no_picture["message"])

    huge = await asked(server, "/api/v3/super_resolution", url=sent(Image.new("1", (4000, 2200))), scale=4)
    assert huge["status"] == "error"
    assert "smaller scale" in str(huge["message"])


async def test_a_broken_upscaler_fails_its_job_and_nothing_else(server: Running, folder: Path) -> None:
    save_file({"layers.0.weight": torch.zeros(4, 4, 3, 3)}, folder / "strange.safetensors")

    answer = await asked(server, url=sent(SMALL), model_id="strange")
    assert answer["status"] == "failed"
    assert "RealESRGAN_x4plus" in answer["error"]
    assert (await asked(server, url=sent(SMALL), model_id="demo-x2"))["status"] == "success"


async def test_an_upscale_can_be_cancelled_half_way(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0)) as server:
        folder = tmp_path / "models" / "upscalers"
        folder.mkdir(parents=True)
        save_file(dense_tensors(features=24, growth=12, blocks=3), folder / "slow.safetensors")
        answer = await asked(server, url=sent(HELD_OUT.resize((1024, 768))), scale=4, model_id="slow")
        progress = await server.drawing(answer["id"])
        assert 0 < progress.step < progress.steps
        assert await server.services.jobs.cancel(answer["id"], client_id=1)
        await server.until(answer["id"], statuses=("failed", "error", "cancelled"))
        assert (await server.until((await asked(server, url=sent(SMALL)))["id"]))["status"] == "success"


SHORT = {"prompt": "a red circle on a blue background", "width": "128", "height": "128", "seed": 3, "num_inference_steps": 12}


async def test_a_drawing_is_enlarged_as_asked_and_shows_the_same(server: Running) -> None:
    call = {"key": server.client.headers["X-API-KEY"], "model_id": "demo", **SHORT}
    plain = await server.drawn("/api/v4/dreambooth", **call)
    drawn = await server.picture(plain["output"][0])
    assert drawn.size == (128, 128)
    assert "Postprocess" not in drawn.info["parameters"]

    for asked_for, times, told in (("yes", 2, "yes"), (3, 3, "3"), (1, 1, "1")):
        answer = await server.drawn("/api/v4/dreambooth", **call, upscale=asked_for)
        image = await server.picture(answer["output"][0])
        assert image.size == (128 * times, 128 * times)
        assert (answer["meta"]["W"], answer["meta"]["H"], answer["meta"]["upscale"]) == (128, 128, told)
        assert (detect(image).shape, detect(image).colour, detect(image).background) == ("circle", "red", "blue")
        assert psnr_db(image.resize((128, 128), Image.Resampling.BOX), drawn) > 30
        assert f"Postprocess upscale by: {times}, Postprocess upscaler: demo-x2" in image.info["parameters"]


async def test_an_upscaler_that_draws_is_used_by_its_name_with_a_seed_of_its_own(server: Running, folder: Path) -> None:
    write_upscaling_folder(folder / "x4", "x4")
    tiny = SMALL.resize((16, 16), Image.Resampling.BOX)
    await eventually(lambda: listed(server, "x4"))

    first = await picture_of(server, await asked(server, url=sent(tiny), model_id="x4", scale=2))
    second = await picture_of(server, await asked(server, url=sent(tiny), model_id="x4", scale=2))
    assert first.size == (32, 32)
    assert not np.array_equal(np.asarray(first), np.asarray(second))

    large = await asked(server, "/api/v3/super_resolution", url=sent(Image.new("RGB", (2049, 2048))), model_id="x4", scale=1)
    assert large["status"] == "error"
    assert "takes at most 4.2 million pixels" in str(large["message"])


FACE_COLOUR = (-1.0, 1.0, -1.0)
"""What the face network of the test makes of every face: green."""


async def test_faces_are_restored_once_what_that_takes_is_installed(server: Running) -> None:
    models = server.settings.models_dir
    picture = Image.new("RGB", (128, 128), (60, 70, 90))
    picture.paste((255, 0, 0), (56, 56, 64, 64))
    path = "/api/v3/super_resolution"

    nothing = await asked(server, path, url=sent(picture), face_enhance=True)
    assert nothing["status"] == "error"
    assert "models/faces/gfpgan/" in str(nothing["message"])
    assert "models/annotators/face_detector/" in str(nothing["message"])
    (models / "faces" / "gfpgan").mkdir(parents=True)
    save_file(constant_face_tensors(FACE_COLOUR), models / "faces" / "gfpgan" / "GFPGANv1.4.safetensors")
    half = await asked(server, path, url=sent(picture), face_enhance=True)
    assert "models/faces/gfpgan/" not in str(half["message"])
    assert "models/annotators/face_detector/" in str(half["message"])
    async with server.services.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(JobRow)) == 0

    write_face_model(models / "annotators" / "face_detector" / "yunet.onnx", width=128, height=128)
    plain = await picture_of(server, await asked(server, url=sent(picture)))
    restored = await picture_of(server, await asked(server, path, url=sent(picture), face_enhance=True))
    assert restored.size == plain.size == (256, 256)
    assert restored.getpixel((120, 120)) == (0, 255, 0)
    assert restored.info["parameters"].endswith("Postprocess upscaler: demo-x2, Face restoration: GFPGAN, Version: sdapi")
    changed = np.argwhere((np.asarray(restored) != np.asarray(plain)).any(axis=2))
    assert np.abs(changed - 120).max() < 100
    assert len(changed) > 1000

    (models / "faces" / "gfpgan" / "another.safetensors").write_bytes(b"")
    twice = await asked(server, path, url=sent(picture), face_enhance=True)
    assert "more than one .safetensors file" in str(twice["message"])


async def test_faces_are_laid_over_what_an_upscaler_that_draws_has_made(server: Running, folder: Path) -> None:
    models = server.settings.models_dir
    write_upscaling_folder(folder / "x4", "x4")
    (models / "faces" / "gfpgan").mkdir(parents=True)
    save_file(constant_face_tensors(FACE_COLOUR), models / "faces" / "gfpgan" / "GFPGANv1.4.safetensors")
    write_face_model(models / "annotators" / "face_detector" / "yunet.onnx", width=32, height=32)
    picture = Image.new("RGB", (32, 32), (60, 70, 90))
    picture.paste((255, 0, 0), (8, 8, 16, 16))
    await eventually(lambda: listed(server, "x4"))

    restored = await picture_of(
        server, await asked(server, "/api/v3/super_resolution", url=sent(picture), model_id="x4", face_enhance=True)
    )
    assert restored.size == (64, 64)
    assert restored.getpixel((24, 24)) == (0, 255, 0)
