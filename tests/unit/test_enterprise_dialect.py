from __future__ import annotations

from typing import Any

import pytest

from sdapi.dialects import enterprise
from sdapi.dialects.base import Asked, Dialect
from sdapi.domain.errors import JobNotFound, ModelNotFound, NotAllowed
from sdapi.domain.generation import SchedulerName
from sdapi.domain.job import JobStatus

from .hosted_jobs import ABSENT, differences, golden, job_of, parse, sample_job

TEXT2IMG = "/api/v1/enterprise/text2img"
CONTROLNET = "/api/v1/enterprise/controlnet"

LATER_KEYS = {"proxy_links": (ABSENT, "list"), "nsfw_content_detected": (ABSENT, "null")}
"""Samples of 2023 don't have them yet."""
ALLOWED = {"super_resolution": LATER_KEYS, "text2img": LATER_KEYS | {"meta.embeddings": ("null", "str"), "meta.lora": ("null", "str")}}
"""The documented request asks for an embedding and a LoRA, and its answer has none."""
NOT_LOOKED_AT = {"nsfw_content_detected": ("bool", "null")}


def test_the_module_is_a_dialect() -> None:
    dialect: Dialect = enterprise
    assert (dialect.NAME, dialect.ERRORS_ARE_200) == ("enterprise", True)


@pytest.mark.parametrize("endpoint", enterprise.ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_success_has_the_documented_shape(endpoint: Any) -> None:
    rendered = enterprise.render_job(sample_job(enterprise, endpoint.path), eta_s=0)

    assert rendered.status == 200
    allowed = ALLOWED.get(endpoint.sample, NOT_LOOKED_AT)
    assert differences(golden("enterprise", f"{endpoint.sample}_success"), rendered.body) == allowed


def test_the_documented_text2img_request_is_read() -> None:
    sample = golden("enterprise", "text2img_request")

    assert parse(enterprise, TEXT2IMG, sample) == Asked(
        kind="txt2img",
        endpoint="enterprise/text2img",
        prompt=sample["prompt"],
        negative_prompt=sample["negative_prompt"],
        model_id="model_id",
        steps=20,
        guidance_scale=7.5,
        lora_models=("lora_model_id",),
        lora_strengths=(1.0,),
        embeddings=("embeddings_model_id",),
        scheduler=SchedulerName.UNIPC,
        use_karras_sigmas=True,
        enhance_prompt=True,
        token_merging=True,
        echo={
            "track_id": None,
            "safety_checker": "no",
            "upscale": "no",
            "instant_response": "no",
            "embeddings": "embeddings_model_id",
            "lora": "lora_model_id",
            "lora_strength": 1.0,
        },
    )


def test_the_answer_to_the_documented_request_has_the_documented_values() -> None:
    sample = golden("enterprise", "text2img_success")["meta"]
    asked = parse(enterprise, TEXT2IMG, golden("enterprise", "text2img_request") | {"lora_model": None, "embeddings_model": None})
    meta = enterprise.render_job(job_of(enterprise, asked), eta_s=0).body["meta"]

    assert isinstance(meta, dict)
    different = {key for key in sample if meta[key] != sample[key]}
    assert different == {"model_id", "negative_prompt"}, "the model is ours, and so are its stock negative words"


@pytest.mark.parametrize("name", ["text2img", "img2img", "inpaint", "controlnet", "text2video", "super_resolution"])
def test_the_three_places_of_a_call_read_alike(name: str) -> None:
    sample = golden("enterprise", f"{name}_request")
    places = [f"{folder}/{name}" for folder in enterprise.FOLDERS]
    first, *others = [parse(enterprise, place, sample) for place in places]

    assert len(places) == 3
    assert [other == first for other in others] == [True, True]


def test_a_model_is_needed_except_for_upscaling() -> None:
    with pytest.raises(ModelNotFound) as refusal:
        parse(enterprise, TEXT2IMG, {"prompt": "a"})
    assert "get_all_models" in str(enterprise.render_error(refusal.value).body["tip"])
    assert parse(enterprise, "/api/v1/enterprise/super_resolution", {"url": "http://there/a.png"}).model_id is None


def test_a_picture_is_a_map_already_unless_auto_hint_says_otherwise() -> None:
    sample = golden("enterprise", "controlnet_request")
    assert parse(enterprise, CONTROLNET, sample | {"auto_hint": None}).auto_hint is False
    assert parse(enterprise, CONTROLNET, sample).auto_hint is True


def test_processing_has_the_links_under_the_name_an_enterprise_client_reads() -> None:
    body = enterprise.render_job(sample_job(enterprise, TEXT2IMG, status=JobStatus.QUEUED), eta_s=3).body

    differing = {"message": (ABSENT, "str"), "meta.embeddings": ("null", "str"), "meta.lora": ("null", "str")}
    assert differences(golden("enterprise", "text2img_processing"), body) == differing
    assert body["image_links"] == body["future_links"]
    assert body["fetch_result"] == "http://here/api/v1/enterprise/fetch/12202888"


def test_fetch_of_a_finished_job_has_exactly_the_documented_keys() -> None:
    rendered = enterprise.render_fetch(sample_job(enterprise, TEXT2IMG), eta_s=0)
    assert differences(golden("enterprise", "fetch_success"), rendered.body) == {}


def test_an_ordinary_key_is_told_that_it_does_not_do() -> None:
    rendered = enterprise.render_error(NotAllowed())
    assert (rendered.status, rendered.body["message"]) == (401, "Invalid Api Key")


def test_an_unknown_id_means_404() -> None:
    assert enterprise.render_error(JobNotFound()).status == 404
