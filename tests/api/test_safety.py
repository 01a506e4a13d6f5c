"""The safety checker through the front door: what clients get, are told, and may never see."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdapi.engine.covering import covered
from tests.pipelines.drawing import greatest_difference
from tests.pipelines.safety_files import install_checker
from tests.webhook_receiver import receiving

from .running import Running, eventually, running, settings_for

KEY = "enterprise-key-of-the-test"
V4 = "/api/v4/dreambooth"
ENTERPRISE = "/api/v1/enterprise/text2img"
GOAPI = "/sd/txt2img"
RED, BLUE = "a red circle on a blue background", "a blue square on a white background"
SMALL = {"model_id": "demo", "width": 64, "height": 64, "num_inference_steps": 4, "seed": 1, "guidance_scale": 5}


@asynccontextmanager
async def serving(tmp_path: Path, **changes: object) -> AsyncIterator[Running]:
    # A busy machine may be late with heartbeats: a picture drawn twice at once differs by rounding from one drawn alone.
    settings = settings_for(tmp_path, **{"api_key": KEY, "repeats_per_30_s": 0, "stale_after_s": 60, **changes})
    async with running(settings) as server:
        yield server


async def post(server: Running, path: str = V4, /, **body: object) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.stranger.post(path, json={"key": KEY, **SMALL, "prompt": RED, **body})).json()
    return answer


async def files(server: Running, answer: dict[str, Any]) -> list[bytes]:
    assert answer["status"] == "success", answer
    return [(await server.stranger.get(url)).content for url in answer["output"]]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def sent(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


async def drawn_and_judged(server: Running) -> tuple[bytes, bytes]:
    """A picture as it is drawn without a check, and one of another prompt; from now on the first is unsafe, the second not."""
    (unsafe,) = await files(server, await post(server, safety_checker="no"))
    (safe,) = await files(server, await post(server, prompt=BLUE, safety_checker="no"))
    install_checker(server.settings.models_dir, [opened(unsafe)], [opened(safe)])
    return unsafe, safe


async def test_an_unsafe_picture_is_covered_as_asked_and_told_and_a_safe_one_is_the_very_same_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        unsafe, safe = await drawn_and_judged(server)
        for path in (V4, ENTERPRISE):
            for how in ("black", "blur", "pixelate", "sensitive_content_text"):
                answer = await post(server, path, safety_checker="yes", safety_checker_type=how)
                (hidden,) = await files(server, answer)
                assert answer["nsfw_content_detected"] is True
                assert answer["meta"]["safetychecker"] == "yes"
                assert np.array_equal(np.asarray(opened(hidden)), np.asarray(covered(opened(unsafe), how)))
                assert "parameters" not in opened(hidden).info
                fetched = await post(server, "/api/v3/fetch", request_id=answer["id"])
                assert (fetched["nsfw_content_detected"], fetched["output"]) == (True, answer["output"])

            answer = await post(server, path, prompt=BLUE, safety_checker="yes")
            assert answer["nsfw_content_detected"] is False
            assert await files(server, answer) == [safe]
            assert BLUE in opened(safe).info["parameters"]


async def test_every_dialect_has_its_documented_default(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        unsafe, _ = await drawn_and_judged(server)
        for path in (V4, "/api/v3/text2img", "/api/v6/images/text2img", GOAPI):
            answer = await post(server, path)
            assert answer.get("nsfw_content_detected") is None, path
            assert np.array_equal(np.asarray(opened((await files(server, answer))[0])), np.asarray(opened(unsafe)))
        answer = await post(server, ENTERPRISE)
        assert (answer["nsfw_content_detected"], answer["meta"]["safetychecker"]) == (True, "yes")
        hidden = opened((await files(server, answer))[0])
        assert np.array_equal(np.asarray(hidden), np.asarray(covered(opened(unsafe), "sensitive_content_text")))
        asked = await post(server, "/api/v6/images/text2img", safety_checker=True, safety_checker_type="black")
        assert asked["nsfw_content_detected"] is True
        assert opened((await files(server, asked))[0]).getextrema() == ((0, 0), (0, 0), (0, 0))


async def test_of_several_samples_only_the_unsafe_one_is_covered(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        first, second = await files(server, await post(server, samples=2))
        install_checker(server.settings.models_dir, [opened(second)], [opened(first)])
        answer = await post(server, samples=2, safety_checker="yes", safety_checker_type="black")
        assert answer["nsfw_content_detected"] is True
        kept, hidden = await files(server, answer)
        # How many samples share a forward is learnt from those before, and company changes last bits.
        assert greatest_difference(opened(kept), opened(first)) <= 2
        assert opened(hidden).getextrema() == ((0, 0), (0, 0), (0, 0))


async def test_as_base64_it_is_covered_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await drawn_and_judged(server)
        (text,) = await files(server, await post(server, base64="yes", safety_checker="yes", safety_checker_type="black"))
        assert opened(base64.b64decode(text)).getextrema() == ((0, 0), (0, 0), (0, 0))


async def test_without_a_checker_the_picture_is_given_and_null_is_said_even_to_who_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        plain = await files(server, await post(server, safety_checker="no"))
        answer = await post(server, safety_checker="yes")
        assert answer["nsfw_content_detected"] is None
        assert await files(server, answer) == plain


async def test_an_unknown_way_to_cover_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        answer = await post(server, safety_checker="yes", safety_checker_type="sticker")
        assert answer["status"] == "error"
        assert "black, blur, pixelate, sensitive_content_text" in answer["message"]["safety_checker_type"][0]
        assert (await server.client.get("/jobs")).json()["jobs"] == []


async def test_where_checks_are_required_nothing_is_drawn_without_a_checker(tmp_path: Path) -> None:
    async with serving(tmp_path, safety="required") as server:
        for path in (V4, ENTERPRISE, GOAPI, "/api/v6/images/text2img"):
            answer = await post(server, path, safety_checker="no")
            assert answer["status"] in ("error", "failed"), answer
            assert "models/safety/" in str(answer), path
        headers = {"X-API-KEY": KEY}
        assert (await server.stranger.get("/jobs", headers=headers)).json()["jobs"] == []


async def test_where_checks_are_required_clients_can_not_do_without(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        unsafe, safe = await drawn_and_judged(server)
    async with serving(tmp_path, safety="required") as server:
        answer = await post(server, safety_checker="no", safety_checker_type="black")
        assert (answer["nsfw_content_detected"], answer["meta"]["safetychecker"]) == (True, "yes")
        assert opened((await files(server, answer))[0]).getextrema() == ((0, 0), (0, 0), (0, 0))
        assert await files(server, await post(server, prompt=BLUE, safety_checker="no")) == [safe]
        for path, body in ((GOAPI, {}), ("/api/v5/super_resolution", {"url": sent(opened(unsafe)), "scale": 1, "model_id": None})):
            answer = await post(server, path, **body)
            links = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
            hidden = opened((await server.stranger.get(links[0])).content)
            # Next to the text it is dark.
            assert np.asarray(hidden)[:16].mean() < 60 < np.asarray(opened(unsafe))[:16].mean(), path
            assert answer["nsfw_content_detected"] is True


async def test_a_damaged_checker_fails_the_request_in_a_sentence_and_gives_nothing_out(tmp_path: Path) -> None:
    async with serving(tmp_path, safety="required") as server:
        folder = install_checker(server.settings.models_dir, [Image.new("RGB", (64, 64), "red")], [Image.new("RGB", (64, 64), "blue")])
        (folder / "config.json").write_text("{")
        answer = await post(server)
        assert answer["status"] == "failed", answer
        assert "The safety checker in models/safety/checker/ can't be loaded" in str(answer)
        assert not list((tmp_path / "images").rglob("*.png"))

        (folder / "model.safetensors").write_bytes(b"{" * 100)
        answer = await post(server)
        assert answer["status"] == "error", answer
        assert "models/safety/checker/ can't be used" in answer["message"]
    async with serving(tmp_path) as server:
        # Whoever installed one counts on it.
        assert (await post(server, safety_checker="yes"))["status"] == "failed"
        assert (await post(server, safety_checker="no"))["status"] == "success"


async def test_nothing_is_checked_where_checks_are_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        unsafe, _ = await drawn_and_judged(server)
    async with serving(tmp_path, safety="off") as server:
        answer = await post(server, safety_checker="yes")
        assert answer["nsfw_content_detected"] is None
        assert await files(server, answer) == [unsafe]


async def test_no_preview_shows_what_is_still_to_be_checked(tmp_path: Path) -> None:
    async with serving(tmp_path, sync_wait_s=0) as server:
        install_checker(server.settings.models_dir, [Image.new("RGB", (64, 64), "red")], [Image.new("RGB", (64, 64), "blue")])
        seen = {}
        for asked in ("no", "yes"):
            job_id = (await post(server, width=512, height=512, num_inference_steps=51, safety_checker=asked))["id"]
            await server.drawing(job_id)
            response = await server.stranger.get(f"/jobs/{job_id}/preview", headers={"X-API-KEY": KEY})
            assert not (await server.services.jobs.fetch(job_id, client_id=None)).status.is_final
            seen[asked] = response.status_code
            await server.stranger.delete(f"/jobs/{job_id}", headers={"X-API-KEY": KEY})
        assert seen == {"no": 200, "yes": 404}


async def test_the_webhook_is_told_what_the_answer_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, receiving() as receiver:
        await drawn_and_judged(server)
        for prompt, asked in ((RED, "yes"), (BLUE, "yes"), (RED, "no")):
            await post(server, prompt=prompt, safety_checker=asked, webhook=receiver.url(), track_id=f"{prompt} {asked}")

        async def all_told() -> bool:
            await asyncio.sleep(0)
            return len(receiver.calls) == 3

        await eventually(all_told)
        told = {body["track_id"]: body.get("nsfw_content_detected") for body in (json.loads(call.body) for call in receiver.calls)}
        assert told == {f"{RED} yes": True, f"{BLUE} yes": False, f"{RED} no": None}


@pytest.mark.parametrize("path", ["/api/v3/nsfw_image_check", "/api/v1/enterprise/nsfw_image_check"])
async def test_a_picture_of_the_client_is_checked_by_the_same_model(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as server:
        red, blue = (Image.new("RGB", (96, 64), colour) for colour in ("red", "blue"))
        folder = install_checker(server.settings.models_dir, [red], [blue])
        assert await post(server, path, init_image=sent(red)) == {"images": "", "has_nsfw_concept": [True]}
        assert (await post(server, path, init_image=sent(blue)))["has_nsfw_concept"] == [False]
        (link,) = (await post(server, safety_checker="no"))["output"]
        answer = await post(server, path, init_image=link)
        assert (answer["images"], type(answer["has_nsfw_concept"][0])) == (link, bool)
        assert "init_image" in (await post(server, path, init_image="aGVsbG8="))["message"]
        (folder / "config.json").write_text("{")
        answer = await post(server, path, init_image=sent(red))
        assert answer["status"] == "error"
        assert "can't be loaded" in answer["message"]
