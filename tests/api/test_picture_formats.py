"""JPEG and WebP by request, through the front door: what is served, what it says of itself, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from recipe.detector import detect

from tests.pipelines.safety_files import install_checker

from .running import Running, eventually, running, settings_for

KEY = "enterprise-key-of-the-test"
SMALL = {"key": KEY, "model_id": "demo", "prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 2}
DRAWING = ("/sd/txt2img", "/api/v3/text2img", "/api/v4/dreambooth", "/api/v6/images/text2img", "/api/v1/enterprise/text2img")
UPSCALING = (
    "/sd/upscale",
    "/api/v3/super_resolution",
    "/api/v5/super_resolution",
    "/api/v6/image_editing/super_resolution",
    "/api/v1/enterprise/super_resolution",
)
FORMATS = {"jpeg": ("JPEG", ".jpg", "image/jpeg"), "webp": ("WEBP", ".webp", "image/webp"), "png": ("PNG", ".png", "image/png")}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(settings_for(tmp_path, api_key=KEY, repeats_per_30_s=0)) as opened:
        yield opened


async def post(server: Running, path: str, /, **body: object) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.stranger.post(path, json={**SMALL, **body})).json()
    return answer


async def once_fetched(server: Running, path: str, job_id: int) -> dict[str, Any]:
    """The answer of a fetch as soon as the job has succeeded."""

    async def look() -> dict[str, Any]:
        answer = await post(server, path, request_id=job_id)
        return answer if answer["status"] == "success" else {}

    return await eventually(look)


async def files(server: Running, answer: dict[str, Any]) -> list[bytes]:
    assert answer["status"] == "success", answer
    links = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
    return [(await server.stranger.get(link)).content for link in links]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def sent(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def comment_of(picture: Image.Image) -> str | None:
    comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    return None if comment is None else str(comment.removeprefix(b"UNICODE\0").decode("utf-16-be"))


async def assert_served(server: Running, url: str, asked: str) -> Image.Image:
    """The picture at the address, whose name, media type and bytes must all be of the format."""
    name, ending, media_type = FORMATS[asked]
    response = await server.stranger.get(url)
    picture = opened(response.content)
    assert url.endswith(ending)
    assert (response.headers["content-type"], picture.format, picture.mode) == (media_type, name, "RGB")
    return picture


async def test_every_dialect_draws_in_the_format_asked_for(server: Running) -> None:
    for path in DRAWING:
        for spelt, asked in (("JPG", "jpeg"), (" WebP ", "webp"), (None, "png")):
            answer = await post(server, path, output_format=spelt, samples=2, seed=1)
            assert (answer["status"], len(answer["output"])) == ("success", 2), path
            for url in answer["output"]:
                assert (await assert_served(server, url, asked)).size == (64, 64)


async def test_every_dialect_upscales_into_the_format_asked_for(server: Running) -> None:
    for path in UPSCALING:
        for asked in ("jpeg", "webp"):
            answer = await post(server, path, model_id=None, url=sent(Image.new("RGB", (16, 12), "teal")), output_format=asked)
            assert answer["status"] == "success", answer
            url = answer["output"] if isinstance(answer["output"], str) else answer["output"][0]
            assert (await assert_served(server, url, asked)).size == (32, 24)


async def test_links_are_promised_with_the_ending_that_the_pictures_will_have(server: Running) -> None:
    answer = await post(server, "/api/v6/images/text2img", output_format="webp", instant_response=True)
    (promised,) = answer["future_links"]
    await assert_served(server, promised, "webp")
    assert answer["meta"]["file_prefix"].endswith(".webp")
    assert (await once_fetched(server, "/api/v6/images/fetch", answer["id"]))["output"] == [promised]


@pytest.mark.parametrize("asked", ["jpeg", "webp"])
async def test_the_picture_still_shows_what_the_prompt_says(server: Running, asked: str) -> None:
    body = {"width": 128, "height": 128, "num_inference_steps": 20, "seed": 3, "prompt": "a yellow star on a purple background"}
    (exact,) = await files(server, await post(server, "/sd/txt2img", **body))
    fine, rough = [
        (await files(server, await post(server, "/sd/txt2img", **body, output_format=asked, output_quality=quality)))[0]
        for quality in ("95", 20)
    ]
    finding = detect(opened(fine))
    assert (finding.background, finding.colour, finding.shape) == ("purple", "yellow", "star")
    assert len(rough) < len(fine) < len(exact)
    apart = [float(np.abs(np.asarray(opened(exact), np.float64) - np.asarray(opened(data), np.float64)).mean()) for data in (fine, rough)]
    assert apart[0] < apart[1] < 10


async def test_the_parameters_are_those_of_the_png_file(server: Running) -> None:
    (png,) = await files(server, await post(server, "/sd/txt2img", seed=7, negative_prompt="größer 猫"))
    told = opened(png).info["parameters"]
    assert "Seed: 7" in told
    for asked in ("jpeg", "webp"):
        (data,) = await files(server, await post(server, "/sd/txt2img", seed=7, negative_prompt="größer 猫", output_format=asked))
        assert comment_of(opened(data)) == told


async def test_a_setting_keeps_the_parameters_out(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, api_key=KEY, png_metadata=False)) as server:
        for asked in ("jpeg", "webp"):
            (data,) = await files(server, await post(server, "/sd/txt2img", output_format=asked))
            assert comment_of(opened(data)) is None


async def test_a_covered_picture_in_any_format_does_not_say_how_to_uncover_it(server: Running) -> None:
    (unsafe,) = await files(server, await post(server, "/api/v4/dreambooth", seed=1))
    install_checker(server.settings.models_dir, [opened(unsafe)], [Image.new("RGB", (64, 64), "white")])
    for asked in ("jpeg", "webp"):
        answer = await post(
            server, "/api/v4/dreambooth", seed=1, output_format=asked, safety_checker="yes", safety_checker_type="black", samples=1
        )
        assert answer["nsfw_content_detected"] is True
        hidden = opened((await files(server, answer))[0])
        assert np.asarray(hidden).max() <= 2
        assert comment_of(hidden) is None


async def test_a_request_of_a_server_that_stopped_is_drawn_by_the_next_in_its_format(tmp_path: Path) -> None:
    # The name of a text file of base64 doesn't tell the format: only what was recorded does.
    path, settings = "/api/v3/text2img", settings_for(tmp_path, api_key=KEY, sync_wait_s=0, stop_grace_s=0, repeats_per_30_s=0)
    long = {"width": 256, "height": 256, "num_inference_steps": 51}
    async with running(settings) as server:
        answer = await post(server, path, **long, seed=1, base64="yes", output_format="jpg", output_quality=7)
        await server.drawing(answer["id"])
    async with running(settings) as server:
        fine = await post(server, path, seed=1, base64="yes", output_format="jpg")
        pictures = []
        for one in (answer, fine):
            (url,) = (await once_fetched(server, "/api/v3/fetch", one["id"]))["output"]
            text = await server.stranger.get(url)
            assert text.headers["content-type"].startswith("text/plain")
            pictures.append(opened(base64.b64decode(text.text, validate=True)))
    assert [picture.format for picture in pictures] == ["JPEG", "JPEG"]
    quantised = [picture.quantization[0][1] for picture in pictures]  # type: ignore[attr-defined]
    assert quantised[0] > 5 * quantised[1]


async def test_pictures_of_other_formats_can_be_drawn_from_and_removed(server: Running) -> None:
    for asked in ("jpeg", "webp"):
        url = (await post(server, "/sd/txt2img", output_format=asked))["output"][0]
        again = await post(server, "/sd/img2img", init_image=url, output_format=asked)
        await assert_served(server, again["output"][0], asked)
        assert (await post(server, "/api/v3/delete_image", image=url))["status"] == "success"
        assert (await server.stranger.get(url)).status_code == 404


async def test_what_is_no_format_or_quality_is_refused_by_its_name_in_every_dialect(server: Running) -> None:
    formats = "The output_format must be one of png, jpeg, jpg, webp."
    for path in (*DRAWING, *UPSCALING):
        for body, message in (
            ({"output_format": "gif"}, {"output_format": [formats]}),
            ({"output_format": ["png"]}, {"output_format": [formats]}),
            ({"output_format": 7, "output_quality": 0}, {"output_format": [formats], "output_quality": None}),
            ({"output_quality": 101}, {"output_quality": ["The output_quality must be between 1 and 100."]}),
            ({"output_quality": "best"}, {"output_quality": ["The output_quality must be a whole number."]}),
        ):
            response = await server.stranger.post(path, json={**SMALL, "url": "http://127.0.0.1:9/x.png", **body})
            answer = response.json()
            assert response.status_code == (400 if path.startswith(("/sd", "/api/v6")) else 200), path
            assert (answer["status"], answer["message"].keys()) == ("error", message.keys()), path
            assert all(expected in (None, answer["message"][name]) for name, expected in message.items())
    assert (await server.stranger.get("/jobs", headers={"X-API-KEY": KEY})).json()["jobs"] == []


@pytest.mark.parametrize(("asked", "width", "longest"), [("webp", 4096, "16383"), ("jpeg", 16376, "65500")])
async def test_an_enlargement_too_long_for_the_format_is_refused_before_it_is_recorded(
    server: Running, asked: str, width: int, longest: str
) -> None:
    body = {"model_id": None, "url": sent(Image.new("RGB", (width, 8))), "scale": 4}
    answer = await post(server, "/api/v3/super_resolution", **body, output_format=asked)
    assert answer["status"] == "error"
    (sentence,) = answer["message"]["output_format"]
    assert longest in sentence
    assert f"{4 * width} x 32" in sentence
    assert (await server.stranger.get("/jobs", headers={"X-API-KEY": KEY})).json()["jobs"] == []
    assert not [path for path in (server.settings.data_dir / "images").rglob("*") if path.is_file()]
