from __future__ import annotations

import math
from typing import Any

import pytest

from sdapi.dialects import goapi
from sdapi.dialects.base import Asked, Dialect, Picture, ReadLimits, Rendered, webhook_body
from sdapi.domain.errors import ImageRefused, InvalidRequest, JobNotFound, ModelNotFound, NotAuthorised, QueueFull, SdapiError
from sdapi.domain.job import JobStatus

from . import hosted_jobs
from .fakes_http import a_job, an_img2img
from .hosted_jobs import ABSENT, LIMITS, NOW, PENDING, TOKEN, differences, sample_job


def golden(name: str) -> dict[str, Any]:
    return hosted_jobs.golden("goapi", name)


def shape(value: object) -> object:
    """Keys and types, without values; whole and broken numbers are told apart."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def parse(**changes: object) -> Asked:
    return goapi.parse_txt2img({"prompt": "a cat", **changes}, LIMITS)


def problems_of(**changes: object) -> dict[str, list[str]]:
    with pytest.raises(InvalidRequest) as refusal:
        parse(**changes)
    return refusal.value.problems


def test_the_module_is_a_dialect() -> None:
    dialect: Dialect = goapi
    assert dialect.output_names(parse(samples=2), "6b2f", NOW) == ("sd/0-6b2f.png", "sd/1-6b2f.png")


def test_the_documented_txt2img_request_is_read() -> None:
    sample = golden("txt2img_request")

    assert goapi.parse_txt2img(sample, LIMITS) == Asked(
        kind="txt2img",
        endpoint="txt2img",
        prompt="a cat",
        negative_prompt=sample["negative_prompt"],
        model_id="midjourney",
        width=512,
        height=512,
        echo={"track_id": None},
    )


def test_the_documented_img2img_request_is_read() -> None:
    sample = golden("img2img_request")

    asked = goapi.parse_img2img(sample, LIMITS)

    assert (asked.kind, asked.strength, asked.model_id) == ("img2img", 0.8, "anything-v5")
    assert asked.pictures == (Picture("init_image", "init_image", sample["init_image"]),)


def test_the_documented_controlnet_request_is_read() -> None:
    sample = golden("controlnet_request")

    asked = goapi.parse_controlnet(sample, LIMITS)

    assert (asked.kind, asked.model_id, asked.strength, asked.conditioning_scales) == ("controlnet", "ghostmix", 0.8, (1.0,))
    assert (asked.controlnet_models, asked.controlnet_type, asked.auto_hint) == (("canny",), "canny", True)
    assert [(picture.role, picture.source) for picture in asked.pictures] == [
        (role, sample[role]) for role in ("init_image", "control_image", "mask_image")
    ]


def test_a_control_net_without_a_type_is_given_a_finished_map() -> None:
    assert goapi.parse_controlnet(golden("controlnet_request") | {"controlnet_type": None}, LIMITS).auto_hint is False


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"init_image": None}, {"init_image": ["The init_image field is required."]}),
        ({"controlnet_model": ""}, {"controlnet_model": ["The controlnet_model field is required."]}),
        ({"controlnet_model": ","}, {"controlnet_model": ["The controlnet_model must name at least one."]}),
        (
            {"controlnet_conditioning_scale": 21},
            {"controlnet_conditioning_scale": ["The controlnet_conditioning_scale must be between 0 and 20."]},
        ),
        (
            {"controlnet_conditioning_scale": "1,1,1", "controlnet_model": "canny,depth"},
            {
                "controlnet_conditioning_scale": [
                    "The controlnet_conditioning_scale must be one number, or 2: one for each controlnet_model."
                ]
            },
        ),
    ],
)
def test_a_control_net_request_that_can_not_be_read_says_why(change: dict[str, object], problems: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        goapi.parse_controlnet(golden("controlnet_request") | change, LIMITS)
    assert refusal.value.problems == problems


def test_the_documented_upscale_request_is_read() -> None:
    sample = golden("upscale_request")

    assert goapi.parse_upscale(sample, LIMITS) == Asked(
        kind="upscale",
        endpoint="upscale",
        pictures=(Picture("init_image", "url", sample["url"]),),
        scale=2.0,
        echo={"track_id": None},
    )


def test_an_upscale_may_name_its_picture_as_the_other_calls_do() -> None:
    (picture,) = goapi.parse_upscale({"init_image": "http://there/a.png"}, LIMITS).pictures
    assert picture == Picture("init_image", "init_image", "http://there/a.png")


@pytest.mark.parametrize(
    ("body", "field"), [({}, "url"), ({"url": "http://there/a.png", "scale": 5}, "scale"), ({"url": "u", "scale": "x"}, "scale")]
)
def test_an_upscale_that_can_not_be_read_names_the_field(body: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        goapi.parse_upscale(body, LIMITS)
    assert list(refusal.value.problems) == [field]


def test_a_prompt_is_enough() -> None:
    assert parse() == Asked(kind="txt2img", endpoint="txt2img", prompt="a cat", default_steps=30, echo={"track_id": None})


def test_a_form_in_which_everything_is_a_string_is_read() -> None:
    asked = parse(width="256", height="320", seed="0", num_inference_steps="21", guidance_scale="5.5", samples="2", model_id="demo ")

    assert (asked.width, asked.height, asked.seed, asked.steps) == (256, 320, 0, 21)
    assert (asked.guidance_scale, asked.samples, asked.model_id) == (5.5, 2, "demo")


def test_wrong_names_that_clients_send_are_read() -> None:
    asked = parse(steps=32, guidance="9")
    assert (asked.steps, asked.guidance_scale) == (32, 9.0)


def test_the_right_name_counts_before_the_wrong_one_unless_it_is_null() -> None:
    assert parse(steps=32, num_inference_steps=21).steps == 21
    assert parse(steps=32, num_inference_steps=None).steps == 32


@pytest.mark.parametrize("absent", [None, "", "null", -1, "-1"])
def test_a_seed_that_is_not_given_is_random(absent: object) -> None:
    assert parse(seed=absent).seed is None


def test_the_default_side_shrinks_with_the_largest_allowed() -> None:
    asked = goapi.parse_txt2img({"prompt": "a"}, ReadLimits(max_side_px=260))
    assert (asked.width, asked.height) == (256, 256)


@pytest.mark.parametrize("absent", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": " \n"}])
def test_a_prompt_is_required(absent: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        goapi.parse_txt2img(absent, LIMITS)
    assert refusal.value.problems == {"prompt": ["The prompt field is required."]}


@pytest.mark.parametrize("absent", [{}, {"init_image": None}, {"init_image": "null"}])
def test_img2img_needs_an_init_image(absent: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        goapi.parse_img2img({"prompt": "a"} | absent, LIMITS)
    assert refusal.value.problems == {"init_image": ["The init_image field is required."]}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("width", "abc", "The width must be a whole number."),
        ("width", 5000, "The width must be between 64 and 1024."),
        ("height", "8", "The height must be between 64 and 1024."),
        ("guidance_scale", 99, "The guidance_scale must be between 1 and 20."),
        ("guidance", "0", "The guidance must be between 1 and 20."),
        ("guidance_scale", math.nan, "The guidance_scale must be a number."),
        ("steps", "many", "The steps must be a whole number."),
        ("num_inference_steps", 0, "The num_inference_steps must be at least 1."),
        ("samples", 5, "The samples must be between 1 and 4."),
        ("seed", -2, "The seed must be between 0 and 4294967295, or -1 for a random one."),
        ("seed", True, "The seed must be a whole number."),
        ("prompt", 5, "The prompt must be a string."),
        ("model_id", ["a"], "The model_id must be a string."),
        ("negative_prompt", "a\x00", "The negative_prompt contains characters that are not text."),
        ("lora_strength", "strong", "The lora_strength must be a number."),
        ("lora_strength", 3, "The lora_strength must be between 0 and 2."),
    ],
)
def test_a_refusal_names_the_field_as_the_client_spelt_it(field: str, value: object, sentence: str) -> None:
    assert problems_of(**{field: value}) == {field: [sentence]}


def test_all_problems_are_told_at_once() -> None:
    assert set(problems_of(width="abc", height=1, guidance_scale=99)) == {"width", "height", "guidance_scale"}


def test_one_lora_strength_counts_for_all() -> None:
    asked = parse(lora_model="moxin, contrast-fix", lora_strength=0.5)
    assert (asked.lora_models, asked.lora_strengths) == (("moxin", "contrast-fix"), (0.5, 0.5))


def test_loras_without_a_strength_have_full_strength() -> None:
    assert parse(lora_model="moxin").lora_strengths == (1.0,)


def test_a_lora_strength_without_a_lora_means_nothing() -> None:
    assert parse(lora_strength="0.2,0.4").lora_strengths == ()


def test_lora_strengths_must_be_as_many_as_loras() -> None:
    assert problems_of(lora_model="a,b,c", lora_strength="0.2,0.4") == {
        "lora_strength": ["The lora_strength must be one number, or 3: one for each lora_model."]
    }


@pytest.mark.parametrize("spelt", [123, "123", 123.0, " 123 "])
def test_an_id_may_be_spelt_in_many_ways(spelt: object) -> None:
    assert goapi.parse_fetch({"id": spelt}) == 123


@pytest.mark.parametrize("spelt", ["xyz", "", None, 0, -5, 2**31, 1.5, True, [1], {}, "6b2f25d9-8b06-4853-a99e-379b06bb156e"])
def test_what_can_not_be_an_id_is_none(spelt: object) -> None:
    assert goapi.parse_fetch({"id": spelt}) is None


def test_success_has_the_documented_shape() -> None:
    rendered = goapi.render_job(a_job(), eta_s=0)

    assert rendered.status == 200
    assert shape(rendered.body) == shape(golden("txt2img_success"))
    assert rendered.body["output"] == ["http://here/images/sd/0-one.png"]
    assert rendered.body["meta"] == {
        "prompt": "a cat",
        "model_id": "midjourney",
        "negative_prompt": "blurry",
        "W": 512,
        "H": 512,
        "seed": 4107109214,
        "steps": 30,
        "lora": "",
    }


def test_img2img_success_has_the_documented_shape() -> None:
    rendered = goapi.render_job(a_job(request=an_img2img()), eta_s=0)

    assert shape(rendered.body) == shape(golden("img2img_success"))
    meta = rendered.body["meta"]
    assert isinstance(meta, dict)
    assert (meta["init_image"], meta["strength"]) == ("http://here/images/inputs/i.png", 0.8)


def test_upscale_success_has_the_documented_shape() -> None:
    rendered = goapi.render_job(sample_job(goapi, "/sd/upscale"), eta_s=0)

    assert shape(rendered.body) == shape(golden("upscale_success"))
    assert rendered.body["output"] == f"http://here/images/generations/{int(NOW.timestamp())}_{TOKEN}_out.png"


def test_a_control_net_in_work_has_the_documented_shape() -> None:
    job = sample_job(goapi, "/sd/controlnet", status=JobStatus.QUEUED)
    body = goapi.render_job(job, eta_s=65.3969803776).body

    assert differences(golden("controlnet_processing"), body) == {"message": (ABSENT, "str")}
    assert isinstance(body["meta"], dict)
    assert (body["meta"]["strength"], body["meta"]["guess_mode"]) == ("0.8", "no")


def test_a_webhook_about_an_upscale_has_no_meta() -> None:
    told = webhook_body(goapi, sample_job(goapi, "/sd/upscale"))
    assert (told["status"], told["track_id"], "meta" in told) == ("success", None, False)


@pytest.mark.parametrize("status", PENDING)
def test_processing_has_the_documented_keys_and_message(status: JobStatus) -> None:
    rendered = goapi.render_job(a_job(status=status), eta_s=65.3969)
    sample = golden("controlnet_processing")

    assert rendered.status == 200
    assert set(rendered.body) == set(sample) | {"message"}
    assert (rendered.body["eta"], rendered.body["id"]) == (65.4, 28225389)
    assert rendered.body["messege"] == rendered.body["message"] == sample["messege"]


def test_eta_is_never_negative_and_always_a_float() -> None:
    eta = goapi.render_job(a_job(status=JobStatus.RUNNING), eta_s=-3).body["eta"]
    assert (eta, type(eta)) == (0.0, float)


def test_fetch_of_a_finished_job_has_exactly_the_documented_keys() -> None:
    rendered = goapi.render_fetch(a_job(), eta_s=0)
    assert shape(rendered.body) == shape(golden("fetch_success"))


@pytest.mark.parametrize("status", PENDING)
def test_fetch_of_a_waiting_job_is_200_with_an_empty_output(status: JobStatus) -> None:
    assert goapi.render_fetch(a_job(status=status), eta_s=3) == Rendered(
        200,
        {
            "status": "processing",
            "id": 28225389,
            "output": [],
            "messege": "Request processing",
            "message": "Request processing",
            "eta": 3.0,
        },
    )


@pytest.mark.parametrize("render", [goapi.render_job, goapi.render_fetch])
def test_a_failed_job_has_the_documented_shape_and_the_reason(render: Any) -> None:
    rendered = render(a_job(status=JobStatus.FAILED, error="Out of memory."), eta_s=0)

    assert rendered.status == 200
    assert golden("failed").items() <= rendered.body.items()
    assert (rendered.body["request_id"], rendered.body["error"]) == (28225389, "Out of memory.")
    assert rendered.body["messege"] == rendered.body["message"]


def test_a_cancelled_job_says_so() -> None:
    body = goapi.render_fetch(a_job(status=JobStatus.CANCELLED), eta_s=0).body
    assert (body["status"], body["message"]) == ("failed", "The request was cancelled.")


def test_fetch_says_when_the_pictures_are_gone() -> None:
    rendered = goapi.render_fetch(a_job(files_removed=True), eta_s=0)

    assert (rendered.status, rendered.body["status"]) == (400, "failed")
    assert "retention time" in str(rendered.body["message"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InvalidRequest.of("prompt", "The prompt field is required."), 400, {"prompt": ["The prompt field is required."]}),
        (ImageRefused("init_image", "No picture."), 400, {"init_image": ["No picture."]}),
        (NotAuthorised(), 401, "Invalid Api Key"),
        (ModelNotFound("x", ["demo"]), 400, "Model id not found"),
        (JobNotFound(), 400, "Id not found"),
        (QueueFull(30), 429, "Rate limit exceeded"),
        (SdapiError("secret detail"), 500, "The server could not serve this request"),
    ],
)
def test_errors_have_their_status_and_both_spellings_of_message(error: SdapiError, status: int, message: object) -> None:
    rendered = goapi.render_error(error)

    assert rendered.status == status
    assert rendered.body["status"] == "error"
    assert rendered.body["message"] == rendered.body["messege"] == message


@pytest.mark.parametrize(
    ("error", "sample"),
    [
        (InvalidRequest.of("prompt", "The prompt field is required."), "error_missing_field"),
        (ModelNotFound("x", []), "error_unknown_model"),
    ],
)
def test_errors_contain_the_documented_bodies(error: SdapiError, sample: str) -> None:
    assert golden(sample).items() <= goapi.render_error(error).body.items()


def test_an_unknown_model_is_told_what_is_there() -> None:
    assert "demo, sd15" in str(goapi.render_error(ModelNotFound("x", ["demo", "sd15"])).body["tip"])


def test_a_full_queue_says_when_to_come_back() -> None:
    rendered = goapi.render_error(QueueFull(30))
    assert rendered.headers == {"Retry-After": "30"}
    assert "30 seconds" in str(rendered.body["tips"])
