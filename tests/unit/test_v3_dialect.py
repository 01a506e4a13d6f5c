from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdapi.dialects import v3
from sdapi.dialects.base import Asked, Dialect, Rendered, webhook_body
from sdapi.domain.errors import InvalidRequest, JobNotFound, ModelNotFound, NotAuthorised, QueueFull, SdapiError
from sdapi.domain.generation import SchedulerName
from sdapi.domain.job import JobStatus
from sdapi.http.samples import schema_of

from .hosted_jobs import ABSENT, LIMITS, NOW, PENDING, TOKEN, differences, endpoint_at, golden, job_of, parse, sample_job

TEXT2IMG = "/api/v3/text2img"
V4 = "/api/v4/dreambooth"
CONTROLNET = "/api/v5/controlnet"

BOTH_SPELLINGS = {"meta.safetychecker": (ABSENT, "str")}
"""Clients decode one or the other of them."""
LATER_KEYS = {"nsfw_content_detected": ("bool", "null")}
"""Nobody has looked."""
ALLOWED: dict[str, dict[str, tuple[str, str]]] = {
    "/api/v3/text2img": BOTH_SPELLINGS,
    "/api/v3/img2img": BOTH_SPELLINGS,
} | {endpoint.path: LATER_KEYS for endpoint in v3.ENDPOINTS if not endpoint.path.startswith("/api/v3")}


def test_the_module_is_a_dialect() -> None:
    dialect: Dialect = v3
    assert (dialect.NAME, dialect.ERRORS_ARE_200) == ("v3", True)


@pytest.mark.parametrize("endpoint", v3.ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_success_has_the_documented_shape(endpoint: Any) -> None:
    rendered = v3.render_job(sample_job(v3, endpoint.path), eta_s=0)

    assert rendered.status == 200
    assert differences(golden("v3", f"{endpoint.sample}_success"), rendered.body) == ALLOWED.get(endpoint.path, {})


def test_the_documented_text2img_request_is_read() -> None:
    sample = golden("v3", "v3_text2img_request")

    assert parse(v3, TEXT2IMG, sample) == Asked(
        kind="txt2img",
        endpoint="v3/text2img",
        prompt=sample["prompt"],
        negative_prompt=sample["negative_prompt"],
        steps=20,
        default_steps=20,
        guidance_scale=7.5,
        enhance_prompt=True,
        safety_checker=True,
        echo={"track_id": None, "safety_checker": "yes", "upscale": "no", "instant_response": "no"},
    )


def test_the_meta_of_the_documented_request_has_the_documented_values() -> None:
    sample = golden("v3", "v3_text2img_success")["meta"]
    meta = v3.render_job(sample_job(v3, TEXT2IMG), eta_s=0).body["meta"]

    # The model is ours; whether a picture was checked is told as it was asked for.
    assert meta == sample | {"model": "demo", "safetychecker": "yes"}


@pytest.mark.parametrize("model_id", [None, "", "null"])
@pytest.mark.parametrize("path", ["/api/v3/dreambooth", V4, CONTROLNET])
def test_the_community_calls_need_a_model(path: str, model_id: object) -> None:
    body = {"prompt": "a cat", "init_image": "http://there/a.png", "controlnet_model": "canny", "model_id": model_id}
    with pytest.raises(ModelNotFound) as refusal:
        parse(v3, path, body)
    rendered = v3.render_error(refusal.value)

    assert golden("v3", "error_unknown_model").items() <= rendered.body.items()
    assert "model_list" in str(rendered.body["tip"])
    assert "no models" not in str(rendered.body["tip"])


def test_v3_draws_with_the_default_model_unless_one_is_named() -> None:
    assert parse(v3, TEXT2IMG, {"prompt": "a"}).model_id is None
    assert parse(v3, TEXT2IMG, {"prompt": "a", "model_id": "demo "}).model_id == "demo"


@pytest.mark.parametrize(("path", "steps"), [("/api/v3/text2img", 20), ("/api/v3/dreambooth", 20), (V4, 30)])
def test_v3_draws_20_steps_by_default_and_later_versions_30(path: str, steps: int) -> None:
    assert parse(v3, path, {"prompt": "a", "model_id": "demo"}).default_steps == steps


def test_the_later_fields_of_v4_are_read() -> None:
    sample = golden("v3", "v4_dreambooth_request")
    asked = parse(v3, V4, sample | {"lora_model": "a,b", "lora_strength": "0.5,1", "embeddings_model": "bad-hands", "temp": "yes"})

    assert (asked.scheduler, asked.use_karras_sigmas, asked.clip_skip) == (SchedulerName.UNIPC, True, 1)
    assert (asked.lora_models, asked.lora_strengths, asked.embeddings) == (("a", "b"), (0.5, 1.0), ("bad-hands",))
    assert (asked.echo["lora"], asked.echo["lora_strength"]) == ("a,b", "0.5,1")
    assert (asked.token_merging, asked.temp) == (True, True)


def test_meta_names_what_was_asked_for_beside_the_model() -> None:
    asked = parse(v3, V4, {"prompt": "a", "model_id": "sd", "lora": "a,b", "embeddings": "c", "upscale": True, "panorama": 1})
    meta = v3.render_job(job_of(v3, asked), eta_s=0).body["meta"]

    assert isinstance(meta, dict)
    assert (meta["lora"], meta["embeddings"], meta["upscale"], meta["panorama"]) == ("a,b", "c", "yes", "yes")
    assert (meta["scheduler"], meta["model_id"], meta["file_prefix"]) == ("default", "sd", TOKEN)


def test_the_documented_controlnet_request_is_read() -> None:
    asked = parse(v3, CONTROLNET, golden("v3", "v5_controlnet_request"))

    assert (asked.controlnet_models, asked.controlnet_type, asked.conditioning_scales) == (("canny",), "canny", (0.7,))
    assert (asked.auto_hint, asked.guess_mode, asked.strength) == (True, False, 1.0)
    assert [picture.role for picture in asked.pictures] == ["init_image"]


def test_several_control_nets_add_what_their_sample_adds() -> None:
    asked = parse(v3, CONTROLNET, golden("v3", "v5_controlnet_multi_request"))
    body = v3.render_job(job_of(v3, asked), eta_s=0).body

    assert differences(golden("v3", "v5_controlnet_multi_success"), body) == LATER_KEYS


def test_a_control_net_without_a_type_is_given_a_finished_map() -> None:
    sample = golden("v3", "v5_controlnet_request")
    assert parse(v3, CONTROLNET, sample | {"controlnet_type": None}).auto_hint is False
    assert parse(v3, CONTROLNET, sample | {"auto_hint": None}).auto_hint is True
    assert parse(v3, CONTROLNET, sample | {"auto_hint": "no"}).auto_hint is False


def test_guess_mode_needs_no_prompt_and_either_picture_will_do() -> None:
    body = {"model_id": "demo", "controlnet_model": "canny"}
    asked = parse(v3, CONTROLNET, body | {"prompt": None, "guess_mode": "yes", "control_image": "http://there/c.png"})
    assert (asked.prompt, asked.guess_mode, asked.strength) == ("", True, 0.55)

    with pytest.raises(InvalidRequest) as refusal:
        parse(v3, CONTROLNET, body)
    assert refusal.value.problems == {
        "prompt": ["The prompt field is required."],
        "init_image": ["The init_image field is required."],
    }


@pytest.mark.parametrize("name", ["url", "init_image"])
@pytest.mark.parametrize("path", ["/api/v3/super_resolution", "/api/v5/super_resolution"])
def test_upscaling_takes_its_picture_under_either_name(path: str, name: str) -> None:
    asked = parse(v3, path, {name: "http://there/a.png", "scale": "3.0", "face_enhance": "false", "model_id": "RealESRGAN_x4plus"})

    assert (asked.kind, asked.scale, asked.face_enhance, asked.model_id) == ("upscale", 3.0, False, "RealESRGAN_x4plus")
    assert [(picture.field, picture.source) for picture in asked.pictures] == [(name, "http://there/a.png")]


def test_a_missing_picture_to_upscale_is_named_as_documented() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(v3, "/api/v5/super_resolution", {"scale": 2})
    assert refusal.value.problems == {"url": ["The url field is required."]}


def test_a_film_is_one_file() -> None:
    asked = parse(v3, "/api/v5/text2video", golden("v3", "v5_text2video_request") | {"samples": 4, "base64": "yes"})

    assert (asked.seconds, asked.samples) == (3.0, 1)
    assert v3.output_names(asked, TOKEN, NOW) == (f"generations/{TOKEN}-0.mp4",)


def test_what_pictures_are_to_be_means_nothing_to_a_film() -> None:
    asked = parse(v3, "/api/v5/text2video", golden("v3", "v5_text2video_request") | {"output_format": "avi", "output_quality": "best"})

    assert (asked.output_format, asked.output_quality) == ("png", 90)
    assert "output_format" not in schema_of(endpoint_at(v3, "/api/v5/text2video").body)["properties"]
    assert "output_format" in schema_of(endpoint_at(v3, V4).body)["properties"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"samples": 2}, ["generations/{}-0.png", "generations/{}-1.png"]),
        ({"temp": "yes"}, ["temp/{}-0.png"]),
        ({"base64": "yes"}, ["generations/{}-0.base64"]),
        ({"base64": "yes", "output_format": "webp"}, ["generations/{}-0.base64"]),
        ({"output_format": "JPEG", "temp": "yes"}, ["temp/{}-0.jpg"]),
        ({"output_format": "webp"}, ["generations/{}-0.webp"]),
        ({"output_format": "null", "output_quality": ""}, ["generations/{}-0.png"]),
    ],
)
def test_pictures_are_named_as_they_were(changes: dict[str, object], names: list[str]) -> None:
    asked = parse(v3, TEXT2IMG, {"prompt": "a"} | changes)
    assert v3.output_names(asked, TOKEN, NOW) == tuple(name.format(TOKEN) for name in names)


def test_upscaled_pictures_are_named_by_the_time() -> None:
    asked = parse(v3, "/api/v3/super_resolution", {"url": "http://there/a.png"})
    assert v3.output_names(asked, TOKEN, NOW) == (f"generations/{int(NOW.timestamp())}_{TOKEN}_out.png",)


@pytest.mark.parametrize("status", PENDING)
def test_processing_has_all_that_clients_look_for(status: JobStatus) -> None:
    rendered = v3.render_job(sample_job(v3, V4, status=status), eta_s=20.934)

    assert rendered.status == 200
    assert differences(golden("v3", "v4_dreambooth_processing"), rendered.body) == {"message": (ABSENT, "str")}
    assert (rendered.body["eta"], rendered.body["id"]) == (20.93, 12202888)
    assert rendered.body["fetch_result"] == "http://here/api/v3/dreambooth/fetch/12202888"
    assert rendered.body["future_links"] == [f"http://here/images/generations/{TOKEN}-0.png"]


@pytest.mark.parametrize("endpoint", v3.ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_every_processing_answer_leads_to_a_fetch_path(endpoint: Any) -> None:
    body = v3.render_job(sample_job(v3, endpoint.path, status=JobStatus.QUEUED), eta_s=3).body
    path = str(body["fetch_result"]).removeprefix("http://here").replace("12202888", "{id}")
    assert path in {row.path for row in v3.FETCH_PATHS}
    assert set(golden("v3", "v4_dreambooth_processing")) <= set(body)


def test_links_lead_to_where_the_files_are_and_proxy_links_to_this_server() -> None:
    body = v3.render_job(sample_job(v3, V4, files_url="https://bucket.example/sd"), eta_s=0).body

    assert body["output"] == [f"https://bucket.example/sd/generations/{TOKEN}-0.png"]
    assert body["proxy_links"] == [f"http://here/images/generations/{TOKEN}-0.png"]


def test_fetch_of_a_finished_job_has_exactly_the_documented_keys() -> None:
    rendered = v3.render_fetch(sample_job(v3, TEXT2IMG), eta_s=0)
    assert differences(golden("v3", "fetch_success"), rendered.body) == {}


@pytest.mark.parametrize("status", PENDING)
def test_fetch_of_a_waiting_job_is_200_with_an_empty_output(status: JobStatus) -> None:
    rendered = v3.render_fetch(sample_job(v3, TEXT2IMG, status=status), eta_s=3)

    assert golden("v3", "fetch_processing").items() <= rendered.body.items()
    assert (rendered.status, rendered.body["id"], rendered.body["eta"]) == (200, 12202888, 3.0)


def test_fetch_says_when_the_pictures_are_gone() -> None:
    rendered = v3.render_fetch(sample_job(v3, TEXT2IMG, files_removed=True), eta_s=0)
    assert (rendered.status, rendered.body["status"]) == (400, "failed")


@pytest.mark.parametrize("render", [v3.render_job, v3.render_fetch])
def test_a_failed_job_has_the_documented_shape_and_the_reason(render: Any) -> None:
    rendered = render(sample_job(v3, TEXT2IMG, status=JobStatus.FAILED, error="Out of memory."), eta_s=0)

    assert rendered.status == 200
    assert golden("v3", "failed").items() <= rendered.body.items()
    assert (rendered.body["request_id"], rendered.body["error"]) == (12202888, "Out of memory.")


@pytest.mark.parametrize("body", [{"request_id": "5"}, {"request_id": 5}, {"id": 5}, {"request_id": None, "id": "5"}])
def test_the_id_is_found_under_either_name(body: dict[str, object]) -> None:
    assert v3.parse_fetch(body) == 5


@pytest.mark.parametrize("body", [{}, {"request_id": "x"}, {"request_id": [5]}, {"id": 2**31}, {"request_id": 0}])
def test_what_can_not_be_an_id_is_none(body: dict[str, object]) -> None:
    assert v3.parse_fetch(body) is None


@pytest.mark.parametrize(
    ("error", "status", "sample"),
    [
        (InvalidRequest.of("prompt", "The prompt field is required."), 400, "error_missing_field"),
        (NotAuthorised(), 401, "error_invalid_key"),
        (ModelNotFound("x", ["demo"]), 400, "error_unknown_model"),
    ],
)
def test_errors_contain_the_documented_bodies_and_both_spellings(error: SdapiError, status: int, sample: str) -> None:
    rendered = v3.render_error(error)

    assert rendered.status == status
    assert golden("v3", sample).items() <= rendered.body.items()
    assert rendered.body["messege"] == rendered.body["message"]


def test_a_full_queue_has_the_documented_keys() -> None:
    rendered = v3.render_error(QueueFull(30))

    assert (rendered.status, rendered.headers) == (429, {"Retry-After": "30"})
    assert differences(golden("v3", "error_rate_limit"), rendered.body) == {"messege": (ABSENT, "str")}
    assert str(rendered.body["tips"]).endswith("please wait for 30 seconds and try again")


def test_an_unknown_id_is_told_in_one_sentence() -> None:
    assert v3.render_error(JobNotFound()) == Rendered(404, {"status": "error", "message": "Id not found", "messege": "Id not found"})


@pytest.mark.parametrize("path", [TEXT2IMG, "/api/v5/super_resolution", "/api/v5/text2video"])
def test_webhooks_are_told_what_the_answer_tells(path: str) -> None:
    job = sample_job(v3, path)
    told = webhook_body(v3, replace(job, echo={**job.echo, "track_id": 17}))

    assert (told["status"], told["id"], told["track_id"], told["generationTime"]) == ("success", 12202888, 17, 6.53)
    assert told["output"] == v3.render_job(job, eta_s=0).body["output"]
    assert ("meta" in told) == (path == TEXT2IMG)


def test_a_job_that_names_no_known_call_is_still_told() -> None:
    job = replace(sample_job(v3, TEXT2IMG), echo={})
    assert v3.render_job(job, eta_s=0).body["status"] == "success"


def test_limits_on_size_are_the_operators() -> None:
    small = v3.ENDPOINTS[0].parse({"prompt": "a"}, replace(LIMITS, max_side_px=260))
    assert (small.width, small.height) == (256, 256)
