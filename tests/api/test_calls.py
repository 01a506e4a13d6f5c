"""What every dialect's call can ask for beside the drawing: webhooks, links, base64, temporary files, repeats, limits, no waiting."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdapi.domain.limits import OwnLimits
from sdapi.webhooks import sign
from tests.fixtures.translator import damage, install
from tests.webhook_receiver import Call, Receiver, receiving

from .running import Running, eventually, running, settings_for

DRAW = "/api/v4/dreambooth"
SHORT = {"model_id": "demo", "prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 2}
LONG = {**SHORT, "width": 256, "height": 256, "num_inference_steps": 51, "samples": 4}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


async def post(server: Running, path: str, body: dict[str, object], **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.client.post(path, json=body, headers=headers)).json()
    return answer


async def call_to(receiver: Receiver) -> Call:
    await eventually(lambda: asyncio.sleep(0, receiver.calls))
    return receiver.calls[0]


@pytest.mark.parametrize("track_id", ["order-7", 7, None, 1.5, True])
async def test_a_webhook_tells_of_the_picture_with_the_track_id_in_its_own_type(
    tmp_path: Path, receiver: Receiver, track_id: object
) -> None:
    async with running(settings_for(tmp_path, webhook_secret="whsec")) as server:
        answer = await post(server, DRAW, {**SHORT, "webhook": receiver.url(), "track_id": track_id})
        call = await call_to(receiver)

        told = json.loads(call.body)
        assert told == {
            "status": "success",
            "id": answer["id"],
            "output": answer["output"],
            "generationTime": answer["generationTime"],
            "track_id": track_id,
            "meta": answer["meta"],
        }
        assert call.headers["x-sdapi-signature"] == sign(b"whsec", call.body)


async def test_a_webhook_tells_of_a_job_that_failed(tmp_path: Path, receiver: Receiver) -> None:
    settings = settings_for(tmp_path)
    damage(install(settings.models_dir))
    async with running(settings) as server:
        french = {**SHORT, "prompt": "un cercle rouge", "multi_lingual": "yes"}
        answer = await post(server, DRAW, {**french, "webhook": receiver.url(), "track_id": 3})
        told = json.loads((await call_to(receiver)).body)

    assert answer["status"] == "failed"
    assert (told["status"], told["id"], told["track_id"]) == ("failed", answer["request_id"], 3)
    assert told["message"] == "Failed, Try Again"
    assert "models/translators/tiny/ can't be loaded" in told["error"]


async def test_a_webhook_tells_of_a_job_that_was_cancelled_in_the_queue(tmp_path: Path, receiver: Receiver) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0, max_rows=1)) as server:
        await post(server, DRAW, LONG)
        waiting = await post(server, DRAW, {**LONG, "webhook": receiver.url()})
        await server.client.delete(f"/jobs/{waiting['id']}")
        told = json.loads((await call_to(receiver)).body)

    assert (told["status"], told["id"], told["message"]) == ("failed", waiting["id"], "The request was cancelled.")


async def test_a_receiver_that_never_answers_delays_no_picture(tmp_path: Path) -> None:
    async with receiving(lambda _: None) as silent, running(settings_for(tmp_path)) as server:
        for _ in range(3):
            assert (await post(server, DRAW, {**SHORT, "webhook": silent.url()}))["status"] == "success"
        silent.release.set()


async def test_a_webhook_that_is_no_url_is_refused_by_its_name(server: Running) -> None:
    answer = await post(server, DRAW, {**SHORT, "webhook": "ftp://receiver.test/"})
    assert answer["status"] == "error"
    assert list(answer["message"]) == ["webhook"]


@pytest.mark.parametrize("spelt", [None, "", "null", "0"])
async def test_no_webhook_can_be_spelt_in_many_ways(server: Running, spelt: object) -> None:
    assert (await post(server, DRAW, {**SHORT, "webhook": spelt}))["status"] == "success"


async def test_a_repeated_idempotency_key_joins_the_first_job(server: Running) -> None:
    answers = await asyncio.gather(*(post(server, DRAW, {**SHORT, "seed": None}, **{"Idempotency-Key": "order-7"}) for _ in range(5)))
    later = await post(server, "/sd/txt2img", {"prompt": "something else"}, **{"Idempotency-Key": "order-7"})
    other = await post(server, DRAW, SHORT, **{"Idempotency-Key": "order-8"})

    assert {answer["id"] for answer in answers} == {later["id"]}
    assert {answer["meta"]["seed"] for answer in answers} == {later["meta"]["seed"]}
    assert other["id"] != later["id"]
    assert len((await server.client.get("/jobs")).json()["jobs"]) == 2


async def test_base64_yes_gives_the_address_of_a_text_file(server: Running) -> None:
    answer = await post(server, DRAW, {**SHORT, "base64": "yes"})
    assert answer["output"][0].endswith(".base64")
    text = await server.stranger.get(answer["output"][0])
    assert text.headers["content-type"].startswith("text/plain")
    assert Image.open(io.BytesIO(base64.b64decode(text.text, validate=True))).size == (64, 64)


async def test_with_base64_yes_input_pictures_are_plain_base64(server: Running) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    sent = base64.b64encode(picture.getvalue()).decode()
    answer = await post(server, f"{DRAW}/img2img", {**SHORT, "base64": "yes", "init_image": sent, "strength": 0.5})
    assert answer["status"] == "success"


async def test_temp_yes_gives_an_address_under_temp(server: Running) -> None:
    answer = await post(server, DRAW, {**SHORT, "temp": "yes"})
    assert "/temp/" in answer["output"][0]
    assert (await server.picture(answer["output"][0])).size == (64, 64)


async def test_an_instant_response_does_not_wait(server: Running) -> None:
    answer = await post(server, "/api/v6/images/text2img", {**SHORT, "instant_response": True})
    assert answer["status"] == "processing"
    assert isinstance(answer["eta"], int)
    assert len(answer["future_links"]) == 1
    assert (await server.picture(answer["future_links"][0])).size == (64, 64)


async def test_goapi_takes_webhooks_and_instant_responses_too(server: Running, receiver: Receiver) -> None:
    answer = await post(server, "/sd/txt2img", {**SHORT, "instant_response": "yes", "webhook": receiver.url(), "track_id": "7"})
    assert answer["status"] == "processing"
    told = json.loads((await call_to(receiver)).body)
    assert (told["status"], told["id"], told["track_id"]) == ("success", answer["id"], "7")


async def test_fetch_result_needs_nothing_but_the_key(server: Running) -> None:
    answer = await post(server, "/api/v6/realtime/text2img", {**SHORT, "instant_response": True})
    await server.picture(answer["future_links"][0])
    key = server.client.headers["X-API-KEY"]
    by_post = await server.stranger.post(answer["fetch_result"], json={"key": key, "prompt": "repeated by some clients"})
    by_get = await server.stranger.get(answer["fetch_result"], params={"key": key})
    assert by_post.json()["status"] == by_get.json()["status"] == "success"
    assert (await server.stranger.post(answer["fetch_result"], json={})).status_code == 401


async def test_a_key_with_a_queue_limit_is_told_so_and_others_are_not(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0, max_rows=1)) as server:
        await server.services.api_keys.set_limits(1, max_queued_jobs=1)
        answers = [await server.client.post("/sd/txt2img", json=LONG) for _ in range(8)]
        refused = answers[-1]
        assert refused.status_code == 429
        assert refused.json()["message"] == "Rate limit exceeded"
        assert "Maximum 1 queued requests allowed" in refused.json()["tips"]
        assert int(refused.headers["Retry-After"]) > 0
        _, other = await server.services.api_keys.create("other", "user", OwnLimits())
        assert (await server.stranger.post("/sd/txt2img", json=LONG, headers={"X-API-KEY": other})).json()["status"] == "processing"


async def test_the_same_request_again_and_again_is_refused_in_the_documented_words(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=0, repeats_per_30_s=3)) as server:
        statuses = [(await post(server, DRAW, SHORT))["status"] for _ in range(3)]
        refused = await server.client.post(DRAW, json=SHORT)
        other = await post(server, DRAW, {**SHORT, "prompt": "a green square on a white background"})

    assert statuses == ["processing"] * 3
    assert other["status"] == "processing"
    assert refused.status_code == 200, "this service told errors with status 200"
    assert int(refused.headers["Retry-After"]) <= 30
    assert refused.json()["status"] == "error"
    assert refused.json()["message"] == refused.json()["messege"] == "Rate limit exceeded"
    assert refused.json()["tips"].startswith("you are sending same request multiple times, spam filter is enabled, please wait for ")


async def test_pictures_of_a_day_are_counted_by_the_picture(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, key_daily_pictures=3)) as server:
        assert (await post(server, DRAW, {**SHORT, "samples": 2}))["status"] == "success"
        assert (await post(server, DRAW, {**SHORT, "samples": 2}))["message"] == "Rate limit exceeded"
        assert (await post(server, DRAW, {**SHORT, "samples": 1}))["status"] == "success"


@pytest.mark.parametrize(("setting", "status"), [("hosted", 200), ("standard", 400)])
async def test_a_setting_gives_errors_their_own_status(tmp_path: Path, setting: str, status: int) -> None:
    async with running(settings_for(tmp_path, error_status=setting)) as server:
        response = await server.client.post(DRAW, json={"model_id": "demo"})
        assert response.json()["message"] == {"prompt": ["The prompt field is required."]}
        assert response.status_code == status
        assert (await server.client.post("/sd/txt2img", json={})).status_code == 400


async def test_a_user_key_may_not_use_the_enterprise_paths(server: Running) -> None:
    answer = await post(server, "/api/v1/enterprise/text2img", SHORT)
    assert (answer["status"], answer["message"]) == ("error", "Invalid Api Key")
    assert "enterprise key" in answer["tip"]


async def test_without_a_key_fetch_finds_what_was_asked_for_in_its_own_dialect_only(server: Running) -> None:
    theirs = await post(server, DRAW, SHORT)
    ours = await post(server, "/sd/txt2img", SHORT)
    assert (await server.stranger.post("/sd/fetch", json={"id": theirs["id"]})).json()["message"] == "Id not found"
    assert (await server.stranger.post("/sd/fetch", json={"id": ours["id"]})).json()["status"] == "success"
    assert (await server.client.post("/sd/fetch", json={"id": theirs["id"]})).json()["status"] == "success"


async def test_enhance_prompt_appends_the_models_own_words_unless_told_not_to(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    (settings.models_dir / "checkpoints").mkdir(parents=True)
    demo = Path(__file__).parents[2] / "models" / "demo"
    (settings.models_dir / "checkpoints" / "vivid").symlink_to(demo, target_is_directory=True)
    (settings.models_dir / "checkpoints" / "vivid.toml").write_text('enhance = "sharp focus"\nnegative = "blurry"\n')
    async with running(settings) as server:
        enhanced = await post(server, DRAW, {**SHORT, "model_id": "vivid"})
        plain = await post(server, DRAW, {**SHORT, "model_id": "vivid", "enhance_prompt": "no"})

    assert enhanced["meta"]["prompt"] == f"{SHORT['prompt']}, sharp focus"
    assert enhanced["meta"]["negative_prompt"] == "blurry"
    assert plain["meta"]["prompt"] == SHORT["prompt"]
