"""Habits of clients that were seen calling the hosted services, each against this server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from recipe.detector import detect

from .site import Site

DRAWING: dict[str, object] = {
    "model_id": "demo",
    "prompt": "a red circle on a blue background",
    "width": "128",
    "height": "128",
    "num_inference_steps": "20",
    "guidance_scale": "7.5",
    "samples": "1",
    "seed": "3",
    "enhance_prompt": "no",
}
PATHS = ("/sd/txt2img", "/api/v3/text2img", "/api/v4/dreambooth", "/api/v6/images/text2img", "/api/v1/enterprise/text2img")
WAITING_PATHS = PATHS[1:]
"""GoAPI reads no `instant_response`: it answers when the picture is there."""
FETCHES = (
    ("/sd/fetch", 400),
    ("/api/v3/fetch", 200),
    ("/api/v3/dreambooth/fetch", 200),
    ("/api/v4/dreambooth/fetch", 200),
    ("/api/v6/images/fetch", 404),
    ("/api/v6/realtime/fetch", 404),
    ("/api/v6/image_editing/fetch", 404),
    ("/api/v1/enterprise/fetch", 200),
    ("/api/v1/enterprise/images/fetch", 200),
    ("/api/v1/enterprise/txt2img/fetch", 200),
)


def body_for(site: Site, **changes: object) -> dict[str, object]:
    return {**DRAWING, "key": site.enterprise_key, **changes}


def started(site: Site, path: str) -> dict[str, Any]:
    """The answer to a request whose picture isn't there yet."""
    body = body_for(site, instant_response=True, width=256, height=256)
    answer: dict[str, Any] = httpx.post(site.url + path, json=body, timeout=30).json()
    assert answer["status"] == "processing", answer
    return answer


def is_red_circle(site: Site, url: str) -> bool:
    finding = detect(site.picture(url))
    return (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_sends_a_form_gets_its_picture(path: str, site: Site) -> None:
    answer = httpx.post(site.url + path, data=body_for(site), timeout=60).json()
    assert answer["status"] == "success", answer
    assert is_red_circle(site, answer["output"][0])


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_sends_multipart_fields_gets_its_picture(path: str, site: Site) -> None:
    fields = {name: (None, str(value)) for name, value in body_for(site).items()}
    answer = httpx.post(site.url + path, files=fields, timeout=60).json()
    assert answer["status"] == "success", answer
    assert is_red_circle(site, answer["output"][0])


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_names_no_content_type_gets_its_picture(path: str, site: Site) -> None:
    content = httpx.Request("POST", site.url, json=body_for(site)).content
    answer = httpx.post(site.url + path, content=content, timeout=60).json()
    assert answer["status"] == "success", answer


@pytest.mark.parametrize("path", WAITING_PATHS)
def test_a_client_that_repeats_its_whole_request_to_fetch_result_gets_the_first_picture(path: str, site: Site) -> None:
    first = started(site, path)
    httpx.get(first["future_links"][0], timeout=60)

    again = httpx.post(first["fetch_result"], json=body_for(site, instant_response=True), timeout=30).json()
    assert (again["status"], again["id"]) == ("success", first["id"])
    assert again["output"] == first["future_links"]


@pytest.mark.parametrize("path", WAITING_PATHS)
def test_a_client_that_gets_fetch_result_instead_of_posting_is_answered(path: str, site: Site) -> None:
    first = started(site, path)
    httpx.get(first["future_links"][0], timeout=60)

    by_query = httpx.get(first["fetch_result"], params={"key": site.enterprise_key}, timeout=30).json()
    by_header = httpx.get(first["fetch_result"], headers={"X-API-KEY": site.enterprise_key}, timeout=30).json()
    assert by_query == by_header
    assert (by_query["status"], by_query["output"]) == ("success", first["future_links"])


@pytest.mark.parametrize("path", WAITING_PATHS)
def test_a_client_that_opens_a_future_link_too_early_is_held_until_the_picture_is_there(path: str, site: Site) -> None:
    assert is_red_circle(site, started(site, path)["future_links"][0])


@pytest.mark.parametrize("odd", ["86ea6d75-f1d7-42c9-81d5-e7021e8bcd46", "abc", "1.5", "-1", "99999999999999999999", "%00"])
@pytest.mark.parametrize(("path", "status"), FETCHES)
def test_an_id_that_can_not_be_one_is_answered_like_an_unknown_one(path: str, status: int, odd: str, site: Site) -> None:
    body = {"key": site.enterprise_key, "request_id": odd, "id": odd}
    answers = [httpx.post(site.url + path, json=body, timeout=30)]
    if path != "/sd/fetch":
        answers.append(httpx.post(f"{site.url}{path}/{odd}", json={"key": site.enterprise_key}, timeout=30))
        answers.append(httpx.get(f"{site.url}{path}/{odd}", params={"key": site.enterprise_key}, timeout=30))
    unknown = httpx.post(site.url + path, json={**body, "request_id": 1, "id": 1}, timeout=30)

    assert unknown.json()["message"] == "Id not found"
    assert {(answer.status_code, answer.text) for answer in answers} == {(status, unknown.text)}
