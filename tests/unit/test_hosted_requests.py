"""The forms in which real clients send one and the same request, alike in v3 to v6 and enterprise."""

from __future__ import annotations

from typing import Any

import pytest

from sdapi.dialects import enterprise, v3, v6
from sdapi.dialects.base import Asked, Dialect
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import SchedulerName

from .hosted_jobs import golden, parse

CALLS: list[tuple[Dialect, str]] = [
    (v3, "/api/v3/text2img"),
    (v3, "/api/v4/dreambooth"),
    (v6, "/api/v6/images/text2img"),
    (v6, "/api/v6/realtime/text2img"),
    (enterprise, "/api/v1/enterprise/text2img"),
]
BODY: dict[str, Any] = {"prompt": "a cat", "model_id": "demo"}
EVERY_CALL = pytest.mark.parametrize(("dialect", "path"), CALLS, ids=[path for _, path in CALLS])


def read(**changes: Any) -> Asked:
    return parse(v3, "/api/v4/dreambooth", BODY | changes)


def problems_of(**changes: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidRequest) as refusal:
        read(**changes)
    return refusal.value.problems


@EVERY_CALL
def test_numbers_may_be_strings(dialect: Dialect, path: str) -> None:
    numbers = {"width": 256, "height": 320, "samples": 2, "num_inference_steps": 31, "guidance_scale": 7.5, "seed": 0, "clip_skip": 2}
    as_text = {name: str(number) for name, number in numbers.items()}

    assert parse(dialect, path, BODY | as_text) == parse(dialect, path, BODY | numbers)
    assert parse(dialect, path, BODY | numbers).seed == 0


@EVERY_CALL
@pytest.mark.parametrize("spelt", ["yes", "YES", " true", True, 1, "1", "on"])
def test_yes_may_be_spelt_in_many_ways(dialect: Dialect, path: str, spelt: object) -> None:
    asked = parse(dialect, path, BODY | dict.fromkeys(["panorama", "self_attention", "highres_fix", "temp", "base64"], spelt))
    assert (asked.panorama, asked.self_attention, asked.highres_fix, asked.temp, asked.base64_output) == (True,) * 5


@EVERY_CALL
@pytest.mark.parametrize("spelt", ["no", "False", False, 0, "0", "off"])
def test_no_may_be_spelt_in_many_ways(dialect: Dialect, path: str, spelt: object) -> None:
    asked = parse(dialect, path, BODY | {"enhance_prompt": spelt, "use_karras_sigmas": spelt, "safety_checker": spelt, "tomesd": spelt})
    assert (asked.enhance_prompt, asked.use_karras_sigmas, asked.token_merging) == (False, False, False)
    assert asked.echo["safety_checker"] == "no"


@EVERY_CALL
@pytest.mark.parametrize("absent", [None, "", "null", " NULL "])
def test_null_in_all_spellings_means_not_given(dialect: Dialect, path: str, absent: object) -> None:
    names = (
        "negative_prompt width height samples num_inference_steps guidance_scale seed enhance_prompt safety_checker safety_checker_type "
        "multi_lingual panorama self_attention upscale highres_fix embeddings_model lora_model lora_strength scheduler tomesd "
        "use_karras_sigmas algorithm_type clip_skip vae base64 temp instant_response webhook track_id loadbalancer"
    )
    assert parse(dialect, path, BODY | dict.fromkeys(names.split(), absent)) == parse(dialect, path, BODY)


def test_without_fields_the_documented_defaults_count() -> None:
    asked = read()

    assert (asked.width, asked.height, asked.samples, asked.seed) == (512, 512, 1, None)
    assert (asked.steps, asked.guidance_scale, asked.clip_skip, asked.upscale) == (None, None, 1, 0)
    assert (asked.enhance_prompt, asked.use_karras_sigmas, asked.scheduler, asked.webhook) == (True, None, None, None)


@pytest.mark.parametrize("spelt", ["0", 0, "null", "", None])
def test_webhooks_that_are_none(spelt: object) -> None:
    assert read(webhook=spelt).webhook is None


def test_a_webhook_is_handed_on_as_text() -> None:
    assert read(webhook=" https://there/hook ").webhook == "https://there/hook"


@pytest.mark.parametrize("name", ["embeddings_model", "embeddings"])
def test_no_means_no_embedding(name: str) -> None:
    assert read(**{name: "no"}).embeddings == ()
    assert read(**{name: "one, two"}).embeddings == ("one", "two")


@pytest.mark.parametrize("spelt", ["job-1", 17, 1.5, True, "17"])
def test_a_track_id_keeps_its_type(spelt: object) -> None:
    told = read(track_id=spelt).echo["track_id"]
    assert (told, type(told)) == (spelt, type(spelt))


@pytest.mark.parametrize("odd", [[], {}, {"a": 1}, 2**63, -(10**400), float("inf"), float("nan"), "a\x00", "\ud83d"])
def test_a_track_id_that_could_not_be_told_again_is_refused(odd: object) -> None:
    assert list(problems_of(track_id=odd)) == ["track_id"]


@pytest.mark.parametrize(
    ("alias", "value", "name"),
    [
        ("steps", "41", "num_inference_steps"),
        ("guidance", "9", "guidance_scale"),
        ("lora", "a,b", "lora_model"),
        ("embeddings", "c", "embeddings_model"),
        ("clipskip", "2", "clip_skip"),
    ],
)
def test_wrong_names_that_clients_send_are_read(alias: str, value: str, name: str) -> None:
    assert read(**{alias: value}) == read(**{name: value})
    assert read(**{alias: value}) != read()


@pytest.mark.parametrize("path", ["/api/v3/img2img", "/api/v3/inpaint"])
def test_the_old_name_of_strength_is_read(path: str) -> None:
    pictures = {"init_image": "http://there/a.png", "mask_image": "http://there/m.png"}
    assert parse(v3, path, BODY | pictures).strength == 0.7
    assert parse(v3, path, BODY | pictures | {"prompt_strength": "0.25"}).strength == 0.25
    assert parse(v3, path, BODY | pictures | {"prompt_strength": "0.25", "strength": 1}).strength == 1.0


@pytest.mark.parametrize(
    ("spelt", "times", "told"),
    [("yes", 2, "yes"), (True, 2, "yes"), ("no", 0, "no"), (False, 0, "no"), ("0", 0, "no"), ("1", 1, "1"), (2, 2, "2"), ("3", 3, "3")],
)
def test_upscale_is_a_word_or_a_factor(spelt: object, times: int, told: str) -> None:
    asked = read(upscale=spelt)
    assert (asked.upscale, asked.echo["upscale"]) == (times, told)


@pytest.mark.parametrize("name", SchedulerName)
def test_every_documented_scheduler_is_known(name: SchedulerName) -> None:
    assert read(scheduler=name.value).scheduler is name
    assert read(scheduler=f" {name.value.lower()} ").scheduler is name


def test_an_unknown_scheduler_is_told_which_there_are() -> None:
    (sentence,) = problems_of(scheduler="Magic")["scheduler"]
    assert sentence.startswith("The scheduler must be one of DDPMScheduler, DDIMScheduler, ")
    assert sentence.endswith(", or a name of A1111's such as DPM++ 2M Karras.")


def test_a_name_of_a1111_says_the_class_the_spacing_and_the_algorithm() -> None:
    asked = read(scheduler="DPM++ 2M SDE Karras")
    assert (asked.scheduler, asked.use_karras_sigmas, asked.algorithm_type) == (SchedulerName.DPM_MULTISTEP, True, "sde-dpmsolver++")
    assert asked.echo["scheduler"] == "DPM++ 2M SDE Karras"
    assert "scheduler" not in read(scheduler="DDIMScheduler").echo


def test_fields_of_their_own_go_before_what_the_name_says() -> None:
    asked = read(scheduler="DPM++ 2M SDE Karras", use_karras_sigmas="no", algorithm_type="dpmsolver+++")
    assert (asked.use_karras_sigmas, asked.algorithm_type) == (False, "dpmsolver++")


def test_a_sampling_method_counts_where_there_is_no_scheduler() -> None:
    assert read(sampling_method="euler_a").scheduler is SchedulerName.EULER_ANCESTRAL
    assert read(sampling_method="Euler a", scheduler="DDIMScheduler").scheduler is SchedulerName.DDIM


@pytest.mark.parametrize(
    ("spelt", "algorithm"),
    [
        ("none", None),
        ("", None),
        ("dpmsolver", "dpmsolver"),
        ("dpmsolver++", "dpmsolver++"),
        ("dpmsolver+++", "dpmsolver++"),
        (" SDE-dpmsolver++ ", "sde-dpmsolver++"),
        ("sde-dpmsolver", "sde-dpmsolver"),
    ],
)
def test_an_algorithm_is_read_in_the_documented_spelling_and_its_own(spelt: str, algorithm: str | None) -> None:
    assert read(algorithm_type=spelt).algorithm_type == algorithm


@pytest.mark.parametrize("odd", ["magic", 5, ["dpmsolver"], True])
def test_an_unknown_algorithm_is_refused(odd: object) -> None:
    sentence = "The algorithm_type must be one of none, dpmsolver, dpmsolver++, sde-dpmsolver, sde-dpmsolver++."
    assert problems_of(algorithm_type=odd) == {"algorithm_type": [sentence]}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("samples", "5", "The samples must be between 1 and 4."),
        ("clip_skip", 9, "The clip_skip must be between 1 and 8."),
        ("upscale", "4", "The upscale must be yes, no, 1, 2 or 3."),
        ("panorama", "maybe", "The panorama must be yes or no."),
        ("webhook", ["http://there"], "The webhook must be a string."),
        ("track_id", [1], "The track_id must be a string or a number."),
        ("guidance", 0, "The guidance must be between 1 and 20."),
        ("lora_strength", "0.1,9", "The lora_strength must be between 0 and 2."),
    ],
)
def test_a_refusal_names_the_field_as_the_client_spelt_it(field: str, value: object, sentence: str) -> None:
    assert problems_of(**{field: value}) == {field: [sentence]}


@EVERY_CALL
@pytest.mark.parametrize("absent", [{}, {"prompt": None}, {"prompt": ""}])
def test_a_prompt_is_required(dialect: Dialect, path: str, absent: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(dialect, path, {"model_id": "demo"} | absent)
    assert refusal.value.problems == golden("v3", "error_missing_field")["message"]


def test_what_the_services_took_without_effect_is_taken() -> None:
    assert read(algorithm_type="none", loadbalancer="yes", sampling_method=5, ip_adapter_id=["x"]) == read(sampling_method="magic")


@pytest.mark.parametrize(
    ("models", "scales", "fits"),
    [
        ("canny", 0.7, True),
        ("canny,depth", "0.7", True),
        ("canny,depth", "0.5, 1", True),
        ("canny", "20", True),
        ("canny,depth", "1,1,1", False),
    ],
)
def test_scales_are_one_or_one_each(models: str, scales: object, fits: bool) -> None:
    body = BODY | {"init_image": "http://there/a.png", "controlnet_model": models, "controlnet_conditioning_scale": scales}
    if fits:
        assert len(parse(v3, "/api/v5/controlnet", body).conditioning_scales) in (1, 2)
    else:
        with pytest.raises(InvalidRequest, match="one for each controlnet_model"):
            parse(v3, "/api/v5/controlnet", body)


@pytest.mark.parametrize(("field", "value"), [("controlnet_conditioning_scale", 21), ("controlnet_model", " , "), ("strength", 1.1)])
def test_a_control_net_out_of_range_is_refused(field: str, value: object) -> None:
    body = BODY | {"init_image": "http://there/a.png", "controlnet_model": "canny"}
    with pytest.raises(InvalidRequest) as refusal:
        parse(v3, "/api/v5/controlnet", body | {field: value})
    assert list(refusal.value.problems) == [field]
