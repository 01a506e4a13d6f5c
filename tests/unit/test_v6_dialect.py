from __future__ import annotations

from typing import Any

import pytest

from sdapi.dialects import v6
from sdapi.dialects.base import Asked, Dialect, webhook_body
from sdapi.domain.errors import InvalidRequest, JobNotFound, ModelNotFound
from sdapi.domain.job import JobStatus

from .hosted_jobs import ABSENT, PENDING, TOKEN, differences, golden, job_of, parse, sample_job

TEXT2IMG = "/api/v6/images/text2img"
REALTIME = "/api/v6/realtime/text2img"
UPSCALE = "/api/v6/image_editing/super_resolution"

NOT_LOOKED_AT = {"nsfw_content_detected": ("bool", "null")}


def test_the_module_is_a_dialect() -> None:
    dialect: Dialect = v6
    assert (dialect.NAME, dialect.ERRORS_ARE_200) == ("v6", False)


@pytest.mark.parametrize("endpoint", v6.ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_success_has_the_documented_shape(endpoint: Any) -> None:
    rendered = v6.render_job(sample_job(v6, endpoint.path), eta_s=0)

    assert rendered.status == 200
    assert differences(golden("v6", f"{endpoint.sample}_success"), rendered.body) == NOT_LOOKED_AT


def test_the_realtime_sample_request_is_read() -> None:
    assert parse(v6, REALTIME, golden("v6", "realtime_text2img_request")) == Asked(
        kind="txt2img",
        endpoint="v6/realtime/text2img",
        prompt="ultra realistic close up portrait",
        negative_prompt="blurry",
        guidance_scale=7.5,
        enhance_prompt=True,
        echo={"track_id": None, "safety_checker": "no", "upscale": "no", "instant_response": "no"},
    )


def test_instant_response_is_read_and_repeated() -> None:
    asked = parse(v6, REALTIME, {"prompt": "a", "instant_response": True, "safety_checker": "yes", "safety_checker_type": "black"})
    meta = v6.render_job(job_of(v6, asked), eta_s=0).body["meta"]

    assert asked.instant_response
    assert isinstance(meta, dict)
    assert (meta["instant_response"], meta["safety_checker"], meta["safety_checker_type"]) == ("yes", "yes", "black")


def test_steps_are_capped_at_50() -> None:
    assert parse(v6, REALTIME, {"prompt": "a", "num_inference_steps": "999"}).steps == 50
    assert parse(v6, REALTIME, {"prompt": "a", "steps": 31}).steps == 31


@pytest.mark.parametrize("path", [endpoint.path for endpoint in v6.ENDPOINTS if "/images/" in endpoint.path])
def test_the_community_calls_need_a_model(path: str) -> None:
    pictures = {"init_image": "http://there/a.png", "mask_image": "http://there/m.png"}
    with pytest.raises(ModelNotFound):
        parse(v6, path, {"prompt": "a cat", "controlnet_model": "canny"} | pictures)


@pytest.mark.parametrize("path", [REALTIME, "/api/v6/image_editing/inpaint"])
def test_realtime_and_editing_need_none(path: str) -> None:
    pictures = {"init_image": "http://there/a.png", "mask_image": "http://there/m.png"}
    assert parse(v6, path, {"prompt": "a cat"} | pictures).model_id is None


@pytest.mark.parametrize("name", ["init_image", "url"])
def test_upscaling_takes_its_picture_under_either_name(name: str) -> None:
    (picture,) = parse(v6, UPSCALE, {name: "http://there/a.png"}).pictures
    assert (picture.field, picture.source) == (name, "http://there/a.png")


def test_a_missing_picture_to_upscale_is_named_as_documented() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(v6, UPSCALE, {})
    assert refusal.value.problems == {"init_image": ["The init_image field is required."]}


@pytest.mark.parametrize("status", PENDING)
def test_processing_counts_whole_seconds(status: JobStatus) -> None:
    body = v6.render_job(sample_job(v6, TEXT2IMG, status=status), eta_s=9.2).body

    assert differences(golden("v6", "images_text2img_processing"), body) == {"message": (ABSENT, "str")}
    assert (body["eta"], body["fetch_result"]) == (10, "http://here/api/v6/images/fetch/12202888")


def test_clients_are_never_told_to_come_back_after_no_time() -> None:
    assert v6.render_job(sample_job(v6, TEXT2IMG, status=JobStatus.RUNNING), eta_s=0).body["eta"] == 1


def test_an_upscale_in_work_has_its_links_twice() -> None:
    body = v6.render_job(sample_job(v6, UPSCALE, status=JobStatus.QUEUED), eta_s=3).body

    sample = golden("v6", "image_editing_super_resolution_processing")
    assert differences(sample, body) == {"message": (ABSENT, "str"), "meta": (ABSENT, "dict")}
    assert body["proxy_links"] == body["future_links"]


@pytest.mark.parametrize("endpoint", v6.ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_every_processing_answer_leads_to_the_fetch_path_of_its_group(endpoint: Any) -> None:
    body = v6.render_job(sample_job(v6, endpoint.path, status=JobStatus.QUEUED), eta_s=3).body
    path = str(body["fetch_result"]).removeprefix("http://here").replace("12202888", "{id}")

    assert path in {row.path for row in v6.FETCH_PATHS}
    assert path.split("/")[3] == endpoint.path.split("/")[3]


def test_fetch_of_a_finished_job_tells_meta_too() -> None:
    body = v6.render_fetch(sample_job(v6, TEXT2IMG), eta_s=0).body
    assert differences(golden("v6", "fetch_success"), body) == {"nsfw_content_detected": (ABSENT, "null")}


def test_fetch_of_a_waiting_job_is_200_with_an_empty_output() -> None:
    rendered = v6.render_fetch(sample_job(v6, TEXT2IMG, status=JobStatus.QUEUED), eta_s=3.2)
    assert (rendered.status, rendered.body["status"], rendered.body["output"], rendered.body["eta"]) == (200, "processing", [], 4)


def test_fetch_says_when_the_pictures_are_gone() -> None:
    assert v6.render_fetch(sample_job(v6, TEXT2IMG, files_removed=True), eta_s=0).status == 400


@pytest.mark.parametrize("render", [v6.render_job, v6.render_fetch])
def test_a_failed_job_has_the_documented_shape(render: Any) -> None:
    rendered = render(sample_job(v6, TEXT2IMG, status=JobStatus.FAILED, error="Out of memory."), eta_s=0)
    assert (rendered.status, rendered.body["status"], rendered.body["id"]) == (200, "failed", "")


def test_an_unknown_id_is_404() -> None:
    assert v6.render_error(JobNotFound()).status == 404


def test_a_webhook_gets_the_list_and_the_meta() -> None:
    told = webhook_body(v6, sample_job(v6, TEXT2IMG))
    assert told["output"] == [f"http://here/images/generations/{TOKEN}-0.png"]
    assert isinstance(told["meta"], dict)
