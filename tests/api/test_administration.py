"""The administration calls answer as documented, and each really does what it says; only for enterprise keys."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recipe.detector import detect

from sdapi.catalog import embedded_model_dir
from sdapi.domain.job import JobStatus
from sdapi.http.administered import AdministeredServices
from sdapi.services import Services
from sdapi.storage import S3Target
from tests.s3 import S3Server
from tests.unit.fake_model_source import ModelSource, model_source
from tests.unit.test_model_downloads import LORA, VAE, tensors
from tests.webhook_receiver import receiving

from .running import HOST, Running, eventually, running, settings_for

GOLDEN = Path(__file__).parents[1] / "golden"
BASE = "/api/v1/enterprise"


def the_real_services_fit(services: Services) -> AdministeredServices:
    """For mypy: what the composition root builds is what the routes are written against."""
    return services


@dataclass
class Administered:
    """A server, with an enterprise key beside the user's."""

    server: Running
    key: str

    @property
    def services(self) -> Services:
        return self.server.services

    async def post(self, call: str, **body: object) -> Any:
        """The answer to an administration call with the enterprise key, as clients send it: in the body."""
        path = call if call.startswith("/") else f"{BASE}/{call}"
        response = await self.server.stranger.post(path, json={"key": self.key, **body})
        assert response.status_code == 200, response.text
        return response.json()

    async def done(self, call: str, **body: object) -> dict[str, Any]:
        """The answer to a call that must succeed."""
        answer: dict[str, Any] = await self.post(call, **body)
        assert answer["status"] == "success", answer
        return answer

    async def installed(self, model_id: str) -> None:
        """Return when verify_model says that the model is there."""

        async def look() -> bool:
            answer = await self.post("verify_model", model_id=model_id)
            assert answer.get("download", {}).get("state") != "failed", answer
            return bool(answer["status"] == "success")

        await eventually(look)


@asynccontextmanager
async def administered(folder: Path, **changes: object) -> AsyncIterator[Administered]:
    async with running(settings_for(folder, **changes)) as server:
        _, key = await server.services.api_keys.create("boss", "enterprise")
        yield Administered(server, key)


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Administered]:
    async with administered(tmp_path) as opened:
        yield opened


@pytest.fixture
async def source() -> AsyncIterator[ModelSource]:
    async with model_source() as serving:
        yield serving


def golden(call: str, dialect: str = "enterprise") -> Any:
    return json.loads((GOLDEN / dialect / f"{call}_success.json").read_text())


def assert_has_all_of(answer: dict[str, Any], sample: dict[str, Any]) -> None:
    """Every documented key is there with its type; there may be more."""
    assert {name: type(answer.get(name)) for name in sample} == {name: type(value) for name, value in sample.items()}


def a_picture(size: tuple[int, int] = (40, 20), colour: str = "red", kind: str = "PNG") -> str:
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


# -- who may -------------------------------------------------------------------------------------------------------------------------


ACTS = (
    "system_details",
    "restart_server",
    "update_server",
    "update",
    "clear_cache",
    "clear_queue",
    "update_s3",
    "update_s3_details",
    "reset_s3",
    "schedulers_list",
    "list_schedulers",
    "get_all_models",
    "verify_model",
    "load_model",
    "load_model_v2",
    "load_vae",
    "delete_model",
    "upload_image",
    "delete_image",
    "nsfw_image_check",
    "system_load",
)


async def test_a_users_key_is_refused_in_the_dialects_words_and_no_key_too(admin: Administered) -> None:
    for call in ACTS:
        refused = (await admin.server.client.post(f"{BASE}/{call}", json={"model_id": "demo"})).json()
        assert (refused["status"], refused["message"]) == ("error", "Invalid Api Key"), call
        assert "enterprise" in refused["tip"]
        assert (await admin.server.stranger.post(f"{BASE}/{call}", json={"x": 1})).json()["message"] == "Invalid Api Key", call


async def test_every_call_is_found_in_all_three_places_with_and_without_a_slash_at_the_end(admin: Administered) -> None:
    for prefix in (BASE, f"{BASE}/images", f"{BASE}/txt2img"):
        for call in ACTS:
            for slash in ("", "/"):
                response = await admin.server.stranger.post(f"{prefix}/{call}{slash}", json={"key": admin.key})
                assert response.status_code == 200, call


async def test_the_key_is_read_from_both_headers_too(admin: Administered) -> None:
    for headers in ({"X-API-KEY": admin.key}, {"Authorization": f"Bearer {admin.key}"}):
        answer = await admin.server.stranger.post(f"{BASE}/schedulers_list", headers=headers, json={"x": 1})
        assert "schedulers" in answer.json()


async def test_acts_are_logged_with_the_keys_id_and_without_the_key_or_secrets(
    admin: Administered, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await admin.done("clear_queue")
        await admin.post("update_s3", endpoint_url="https://b.127.0.0.1:9", aws_access_key_id="AKID", aws_secret_access_key="s3cr3t-value")
    acts = [(vars(record)["act"], vars(record)["key_id"]) for record in caplog.records if record.message == "administration"]
    assert [act for act, _ in acts] == ["clear_queue", "update_s3"]
    assert {key_id for _, key_id in acts} == {next(k.id for k in await admin.services.api_keys.list() if k.name == "boss")}
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert admin.key not in logged
    assert "s3cr3t-value" not in logged


# -- the server ----------------------------------------------------------------------------------------------------------------------


async def test_system_details_has_the_documented_keys_and_the_truth_about_the_queue(admin: Administered) -> None:
    admin.services.dispatcher.begin_stop()
    await admin.server.client.post("/api/v6/realtime/text2img", json={"prompt": "a cat", "instant_response": True})
    answer = await admin.post("system_details")
    assert_has_all_of(answer, golden("system_details"))
    assert answer["status"] == "ok"
    assert (answer["model_count"], answer["queue_num"], answer["running"]) == (1, 1, 0)
    assert answer["memory_bytes"] >= answer["process_memory_bytes"] > 0


@pytest.mark.parametrize("path", ["/api/v3/system_load", f"{BASE}/system_load"])
async def test_system_load_counts_what_waits(admin: Administered, path: str) -> None:
    assert await admin.post(path) == {"queue_num": 0, "queue_time": 0, "status": "ok"}
    admin.services.dispatcher.begin_stop()
    for _ in range(2):
        await admin.server.client.post("/api/v6/realtime/text2img", json={"prompt": "a cat", "instant_response": True})
    answer = await admin.post(path)
    assert answer["queue_num"] == 2
    assert answer["queue_time"] > 0


async def test_any_key_may_ask_v3_how_much_waits(admin: Administered) -> None:
    assert (await admin.server.client.post("/api/v3/system_load", json={})).json() == golden("v3_system_load", "v3")


@pytest.mark.parametrize("call", ["schedulers_list", "list_schedulers"])
async def test_the_schedulers_are_the_documented_ones_in_their_order_without_a_status(admin: Administered, call: str) -> None:
    assert await admin.post(call) == golden("schedulers_list")


async def test_clear_queue_cancels_all_that_waits_of_everybody(admin: Administered) -> None:
    admin.services.dispatcher.begin_stop()
    ids = []
    for headers in ({}, {"X-API-KEY": admin.key}):
        body = {"prompt": "a cat", "instant_response": True}
        ids.append((await admin.server.client.post("/api/v6/realtime/text2img", json=body, headers=headers)).json()["id"])
    answer = await admin.done("clear_queue")
    assert_has_all_of(answer, golden("clear_queue"))
    assert (answer["message"], answer["cleared"]) == ("Queue cleared successfully", 2)
    assert [(await admin.services.jobs.fetch(job_id, client_id=None)).status for job_id in ids] == [JobStatus.CANCELLED] * 2


@pytest.mark.parametrize(
    ("path", "message"), [(f"{BASE}/clear_cache", "Cache cleared successfully"), ("/api/v5/clear_cache", "Cache cleared")]
)
async def test_clear_cache_forgets_the_models_and_drawing_goes_on(admin: Administered, path: str, message: str) -> None:
    await admin.server.drawn(num_inference_steps=1)
    answer = await admin.done(path)
    assert answer["message"] == message
    assert answer["freed_bytes"] > 1_000_000
    assert (await admin.done(path))["freed_bytes"] == 0
    await admin.server.drawn(num_inference_steps=1)


async def test_a_users_key_may_not_clear_the_cache_by_v5_either(admin: Administered) -> None:
    assert (await admin.server.client.post("/api/v5/clear_cache", json={})).json()["message"] == "Invalid Api Key"


async def test_a_server_that_cannot_restart_itself_says_so_and_stays(admin: Administered) -> None:
    answer = await admin.post("restart_server")
    assert answer["status"] == "error"
    assert "sdapi serve" in answer["message"]
    await admin.server.drawn(num_inference_steps=1)


@pytest.mark.parametrize("call", ["update_server", "update"])
async def test_without_an_update_command_the_setting_is_named(admin: Administered, call: str) -> None:
    answer = await admin.post(call)
    assert answer["status"] == "error"
    assert "SDAPI_UPDATE_COMMAND" in answer["message"]


# -- models --------------------------------------------------------------------------------------------------------------------------


async def test_all_models_are_listed_with_their_dates_and_no_list_is_ever_missing(admin: Administered) -> None:
    folder = admin.server.settings.models_dir / "loras"
    folder.mkdir(parents=True)
    (folder / "moxin.safetensors").write_bytes(tensors(LORA))
    answer = await admin.post("get_all_models")
    sample = golden("get_all_models")
    assert_has_all_of(answer, sample)
    assert_has_all_of(answer["models"][0], sample["models"][0])
    assert [model["model_id"] for model in answer["models"]] == ["demo"]
    assert [model["model_id"] for model in answer["lora_models"]] == ["demo-night", "moxin"]
    assert [model["model_id"] for model in answer["controlnet_models"]] == ["demo-canny"]
    assert answer["embeddings_models"] == answer["vae_models"] == []
    month, day, year = answer["lora_models"][0]["load_data"].split(" ")[0].split("/")
    assert (len(month), len(day), len(year)) == (2, 2, 4)


@pytest.mark.parametrize("version", ["v3", "v4"])
async def test_the_model_list_is_a_bare_array_for_any_key(admin: Administered, version: str) -> None:
    models = (await admin.server.client.post(f"/api/{version}/dreambooth/model_list", json={})).json()
    (sample,) = golden(f"{version}_dreambooth_model_list", "v3")
    assert [model["model_id"] for model in models] == ["demo"]
    assert models[0].keys() == sample.keys()
    assert models[0]["status"] == "model_ready"


async def test_verify_model_tells_what_is_there_and_what_is_not(admin: Administered) -> None:
    assert await admin.post("verify_model", model_id="demo") == golden("verify_model")
    answer = await admin.post("verify_model", model_id="nothing")
    assert (answer["status"], answer["message"]) == ("error", "Model does not exist on server")


async def test_a_model_that_only_the_catch_all_would_draw_does_not_exist(tmp_path: Path) -> None:
    async with administered(tmp_path, model_aliases={"*": "demo"}) as admin:
        assert (await admin.post("verify_model", model_id="midjourney"))["status"] == "error"


async def test_a_model_that_was_loaded_is_listed_and_draws_and_one_that_was_deleted_does_not(tmp_path: Path, source: ModelSource) -> None:
    demo = embedded_model_dir()
    assert demo is not None
    files = {str(path.relative_to(demo)): path.read_bytes() for path in demo.rglob("*") if path.is_file() and path.suffix != ".png"}
    source.publish("acme/shapes", files)
    async with administered(tmp_path, hub_url=f"{source.base}/hub") as admin:
        answer = await admin.done("load_model", url="acme/shapes", model_id="shapes", model_type="huggingface", webhook="0")
        assert_has_all_of(answer, golden("load_model"))
        assert answer["message"] == "model load started"
        await admin.installed("shapes")
        assert [model["model_id"] for model in (await admin.post("get_all_models"))["models"]] == ["demo", "shapes"]

        prompt: dict[str, Any] = {
            "prompt": "a red circle on a blue background",
            "width": 128,
            "height": 128,
            "num_inference_steps": 21,
            "seed": 3,
        }
        drawn = await admin.server.drawn(model_id="shapes", **prompt)
        finding = detect(await admin.server.picture(drawn["output"][0]))
        assert (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")

        assert await admin.done("delete_model", model_id="shapes") == golden("delete_model")
        assert not (tmp_path / "models" / "checkpoints" / "shapes").exists()

        async def is_gone() -> bool:
            return bool((await admin.post("verify_model", model_id="shapes"))["status"] == "error")

        await eventually(is_gone)
        refused = (await admin.server.client.post("/sd/txt2img", json={**prompt, "model_id": "shapes"})).json()
        assert refused["message"] == "Model id not found"


async def test_a_vae_and_a_lora_land_in_their_folders_and_a_webhook_tells(tmp_path: Path, source: ModelSource) -> None:
    async with administered(tmp_path, model_hosts=("127.0.0.1",)) as admin, receiving() as receiver:
        url = source.put("/soft.safetensors", tensors(VAE))
        answer = await admin.done("load_vae", vae_url=url, vae_id="soft", vae_type="diffusers", webhook=receiver.url())
        assert_has_all_of(answer, golden("load_vae"))
        assert answer["message"] == "VAE load started"
        lora = source.put("/moxin.safetensors", tensors(LORA))
        await admin.done("load_model_v2", url=lora, model_id="moxin", model_category="lora", model_format="safetensors")
        await admin.installed("soft")
        await admin.installed("moxin")
        models = await admin.post("get_all_models")
        assert [one["model_id"] for one in (*models["vae_models"], *models["lora_models"])] == ["soft", "demo-night", "moxin"]

        async def told() -> list[Any]:
            return receiver.calls

        (call,) = await eventually(told)
        body = json.loads(call.body)
        assert (body["status"], body["model_id"], body["model_type"], body["message"]) == ("success", "soft", "vae", "VAE loaded")


async def test_a_download_that_fails_is_told_by_verify_model_and_by_its_webhook(tmp_path: Path, source: ModelSource) -> None:
    async with administered(tmp_path, model_hosts=("127.0.0.1",)) as admin, receiving() as receiver:
        await admin.done("load_model", url=f"{source.base}/missing.safetensors", model_id="lost", webhook=receiver.url())

        async def failed() -> dict[str, Any] | None:
            answer = await admin.post("verify_model", model_id="lost")
            assert answer["status"] == "error"
            return answer["download"] if answer["download"]["state"] == "failed" else None

        download = await eventually(failed)
        assert download is not None
        assert "404" in download["error"]

        async def told() -> list[Any]:
            return receiver.calls

        body = json.loads((await eventually(told))[0].body)
        assert (body["status"], body["model_id"], body["message"]) == ("failed", "lost", download["error"])


async def test_a_download_under_way_shows_its_progress(tmp_path: Path, source: ModelSource) -> None:
    async with administered(tmp_path, model_hosts=("127.0.0.1",)) as admin:
        data = tensors(LORA)
        url = source.put("/slow.safetensors", data, hold_after=len(data) // 2)
        await admin.done("load_model", url=url, model_id="slow", model_type="lora")

        async def half_way() -> list[Any]:
            downloads = (await admin.post("system_details"))["downloads"]
            return [one for one in downloads if 0.4 < (one["progress"] or 0) < 0.6]

        (seen,) = await eventually(half_way)
        assert (seen["model_id"], seen["model_type"], seen["state"]) == ("slow", "lora", "running")
        assert (await admin.post("verify_model", model_id="slow"))["download"]["state"] == "running"
        source.go_on.set()
        await admin.installed("slow")


async def test_a_bad_field_is_named_as_the_client_spelt_it(admin: Administered) -> None:
    wrong: tuple[tuple[str, dict[str, object], str, str], ...] = (
        ("load_model", {"model_id": "x"}, "url", "required"),
        ("load_model", {"url": "acme/x"}, "model_id", "required"),
        ("load_model", {"url": "acme/x", "model_id": "../x"}, "model_id", "letters"),
        ("load_model", {"url": "acme/x", "model_id": "demo"}, "model_id", "embedded"),
        ("load_model", {"url": "acme/x", "model_id": "x", "model_type": "hypernetwork"}, "model_type", "lora"),
        ("load_model", {"url": "https://evil.example/x.safetensors", "model_id": "x"}, "url", "evil.example"),
        ("load_model", {"url": "acme/x", "model_id": "x", "webhook": "ftp://x"}, "webhook", "http"),
        ("load_vae", {"vae_id": "../x", "vae_url": "acme/x"}, "vae_id", "The vae_id"),
        ("load_vae", {"vae_id": "x", "vae_url": "https://evil.example/x"}, "vae_url", "The vae_url"),
        ("delete_model", {}, "model_id", "required"),
        ("delete_model", {"model_id": "demo"}, "model_id", "embedded"),
        ("verify_model", {"model_id": None}, "model_id", "required"),
        ("update_s3", {}, "endpoint_url", "required"),
    )
    for call, body, field, words in wrong:
        answer = await admin.post(call, **body)
        assert answer["status"] == "error", call
        assert words in " ".join(answer["message"][field]), call
    assert not await admin.services.downloads.list(10)


async def test_deleting_an_unknown_model_answers_as_for_any_unknown_model(admin: Administered) -> None:
    answer = await admin.post("delete_model", model_id="../../demo")
    assert (answer["status"], answer["message"]) == ("error", "Model id not found")


# -- the bucket ----------------------------------------------------------------------------------------------------------------------


def fields_of(target: S3Target, **changes: object) -> dict[str, object]:
    """The body of update_s3 that means this bucket."""
    return {
        "endpoint_url": f"{target.endpoint_url}/{target.bucket}",
        "region_name": "us-east-1",
        "public_url": f"{target.endpoint_url}/{target.bucket}",
        "aws_access_key_id": target.access_key_id,
        "aws_secret_access_key": target.secret_access_key,
        "image_directory": "made/here",
        "deploy_type": "text_to_image",
        **changes,
    }


@pytest.mark.parametrize("call", ["update_s3", "txt2img/update_s3_details"])
async def test_pictures_go_to_the_bucket_that_was_set_until_it_is_reset(
    admin: Administered, s3_server: S3Server, bucket: S3Target, call: str
) -> None:
    answer = await admin.done(call, **fields_of(bucket))
    assert answer["message"] == "S3 details updated"
    assert bucket.secret_access_key not in json.dumps(answer)
    assert s3_server.keys_in(bucket) == [], "the bucket was tried out, and nothing is left of that"

    base = f"{bucket.endpoint_url}/{bucket.bucket}/made/here/"
    drawn = (await admin.server.drawn(num_inference_steps=1))["output"][0]
    kept = (await admin.done("upload_image", base64_image=a_picture()))["image_url"]
    assert [drawn.startswith(base), kept.startswith(base)] == [True, True]
    assert sorted(s3_server.keys_in(bucket)) == sorted(f"made/here/{link.removeprefix(base)}" for link in (drawn, kept))
    await admin.done("delete_image", image=kept)
    assert s3_server.keys_in(bucket) == [f"made/here/{drawn.removeprefix(base)}"]

    assert await admin.done("reset_s3", deploy_type="text_to_image") == golden("reset_s3")
    again = await admin.server.drawn(num_inference_steps=1)
    assert again["output"][0].startswith(f"{HOST}/images/")
    assert len(s3_server.keys_in(bucket)) == 1


async def test_a_bucket_that_does_not_work_changes_nothing(admin: Administered, bucket: S3Target) -> None:
    await admin.done("update_s3", **fields_of(bucket))
    missing = fields_of(bucket, endpoint_url=f"{bucket.endpoint_url}/no-such-bucket")
    unreachable = fields_of(bucket, endpoint_url="http://127.0.0.1:9/pictures")
    for body in (missing, unreachable):
        answer = await admin.post("update_s3", **body)
        assert answer["status"] == "error"
        assert "endpoint_url" in answer["message"]
    assert (await admin.server.drawn(num_inference_steps=1))["output"][0].startswith(f"{bucket.endpoint_url}/{bucket.bucket}/")


# -- pictures ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_type", "suffix", "kind"), [("png", ".png", "PNG"), ("jpg", ".jpg", "JPEG"), ("jpeg", ".jpg", "JPEG")])
async def test_an_uploaded_picture_is_served_in_the_format_that_was_asked_for(
    admin: Administered, image_type: str, suffix: str, kind: str
) -> None:
    answer = await admin.done("upload_image", base64_image=a_picture(), image_type=image_type)
    assert_has_all_of(answer, golden("upload_image"))
    assert answer["image_url"].startswith(f"{HOST}/images/generations/")
    assert answer["image_url"].endswith(suffix)
    picture = await admin.server.picture(answer["image_url"])
    assert (picture.format, picture.size) == (kind, (40, 20))


async def test_an_uploaded_picture_can_be_drawn_from(admin: Administered) -> None:
    url = (await admin.done("upload_image", base64_image=a_picture((64, 64))))["image_url"]
    await admin.server.drawn("/sd/img2img", init_image=url, num_inference_steps=2)


async def test_what_is_no_picture_is_refused_and_nothing_is_kept(admin: Administered) -> None:
    page = "data:text/html;base64,PHNjcmlwdD4="
    for image in ("aGVsbG8gd29ybGQ=", "not base64 at all!", "http://127.0.0.1:9/x.png", page, None, 7, ["x"]):
        answer = await admin.post("upload_image", base64_image=image)
        assert answer["status"] == "error", image
        assert "base64_image" in answer["message"], image
    assert not [path for path in (admin.server.settings.data_dir / "images").rglob("*") if path.is_file()]


async def test_base64_crop_cuts_the_middle_out_when_asked_to(admin: Administered) -> None:
    image = f"data:image/png;base64,{a_picture()}"
    for crop, size in (("true", (20, 20)), ("false", (40, 20)), (None, (40, 20))):
        answer = (await admin.server.client.post("/api/v3/base64_crop", json={"image": image, "crop": crop})).json()
        assert_has_all_of(answer, golden("v3_base64_crop", "v3"))
        assert answer["message"] == answer["messege"] == "image uploaded"
        assert (await admin.server.picture(answer["link"])).size == size


async def test_base64_crop_takes_5_mb_at_most(admin: Administered) -> None:
    answer = (await admin.server.client.post("/api/v3/base64_crop", json={"image": "A" * 7_000_000})).json()
    assert answer["message"] == {"image": ["The image is larger than 5 MB."]}


async def test_uploads_count_as_requests_of_their_key(tmp_path: Path) -> None:
    async with administered(tmp_path, key_requests_per_minute=2) as admin:
        answers = [(await admin.server.client.post("/api/v3/base64_crop", json={"image": a_picture((n, 9))})).json() for n in (8, 9, 10)]
        assert [answer["status"] for answer in answers] == ["success", "success", "error"]
        assert answers[2]["message"] == "Rate limit exceeded"


@pytest.mark.parametrize("path", ["/api/v3/delete_image", f"{BASE}/delete_image"])
@pytest.mark.parametrize("by", ["request_id", "text", "url", "name"])
async def test_an_own_upload_is_deleted_by_its_id_its_address_or_its_name(admin: Administered, path: str, by: str) -> None:
    kept = await admin.done("upload_image", base64_image=a_picture())
    ways: dict[str, dict[str, object]] = {
        "request_id": {"request_id": kept["request_id"]},
        "text": {"request_id": str(kept["request_id"])},
        "url": {"image": kept["image_url"]},
        "name": {"image": kept["image_url"].rpartition("/")[2]},
    }
    answer = await admin.done(path, **ways[by])
    assert answer["message"] == answer["messege"] == "image deleted"
    assert (await admin.server.stranger.get(kept["image_url"])).status_code == 404
    assert (await admin.post(path, **ways[by]))["message"] == "Id not found"


@pytest.mark.parametrize("by", ["request_id", "image"])
async def test_a_drawn_picture_is_deleted_and_fetch_says_so(admin: Administered, by: str) -> None:
    drawn = await admin.server.drawn(num_inference_steps=1)
    body = {"request_id": drawn["id"]} if by == "request_id" else {"image": drawn["output"][0]}
    answer = (await admin.server.client.post("/api/v3/delete_image", json=body)).json()
    assert answer["status"] == "success"
    assert (await admin.server.stranger.get(drawn["output"][0])).status_code == 404
    assert "removed" in (await admin.server.client.post("/sd/fetch", json={"id": drawn["id"]})).json()["message"]


async def test_one_of_several_pictures_is_deleted_alone(admin: Administered) -> None:
    first, second = (await admin.server.drawn(num_inference_steps=1, samples=2))["output"]
    await admin.server.client.post("/api/v3/delete_image", json={"image": first})
    assert (await admin.server.stranger.get(first)).status_code == 404
    assert (await admin.server.stranger.get(second)).status_code == 200


async def test_nobody_deletes_somebody_elses_pictures_whoever_it_is(admin: Administered) -> None:
    drawn = await admin.server.drawn(num_inference_steps=1)
    kept = (await admin.server.client.post("/api/v3/base64_crop", json={"image": a_picture()})).json()
    for body in (
        {"request_id": drawn["id"]},
        {"image": drawn["output"][0]},
        {"request_id": kept["request_id"]},
        {"image": kept["link"]},
        {"request_id": "many"},
        {"request_id": 2**40},
        {"image": "../../etc/passwd"},
        {"image": "http://[bad/x.png"},
    ):
        assert (await admin.post("delete_image", **body))["message"] == "Id not found"
    for url in (drawn["output"][0], kept["link"]):
        assert (await admin.server.stranger.get(url)).status_code == 200


@pytest.mark.parametrize("path", ["/api/v3/nsfw_image_check", f"{BASE}/nsfw_image_check"])
async def test_nothing_is_said_about_a_picture_without_a_safety_checker(admin: Administered, path: str) -> None:
    answer = await admin.post(path, init_image=a_picture())
    assert answer["status"] == "error"
    assert "models/safety/" in answer["message"]
    assert "has_nsfw_concept" not in answer
    assert "init_image" in (await admin.post(path, init_image="aGVsbG8="))["message"]
