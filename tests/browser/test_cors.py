"""A page of another origin calls every dialect, as a web application of its own does."""

from __future__ import annotations

import pytest
from recipe.detector import detect
from selenium.webdriver import Chrome

from tests.faults.serving import Served

from .pages import Other, fetch, picture_of

DIALECTS = ["/sd/txt2img", "/api/v3/text2img", "/api/v4/dreambooth", "/api/v6/images/text2img"]
ANSWERED_WITH_AN_ERROR = ["/api/v5/controlnet", "/api/v1/enterprise/text2img"]
"""For want of a control net, and of an enterprise key; what matters here is that the page can read that."""
BODY = {"prompt": "a red circle on a blue background", "model_id": "demo", "width": "64", "height": "64", "num_inference_steps": "3"}


@pytest.fixture
def page(browser: Chrome, elsewhere: Other) -> Chrome:
    browser.get(elsewhere.url)
    return browser


def authorised(site: Served, way: str) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and fields that carry the key this way."""
    ways = {
        "header": ({"X-API-KEY": site.key}, {}),
        "bearer": ({"Authorization": f"Bearer {site.key}"}, {}),
        "body": ({}, {"key": site.key}),
    }
    return ways[way]


@pytest.mark.parametrize("way", ["header", "bearer", "body"])
@pytest.mark.parametrize("path", DIALECTS)
def test_a_page_of_another_origin_draws(page: Chrome, site: Served, path: str, way: str) -> None:
    headers, fields = authorised(site, way)
    answer = fetch(page, site.url + path, headers=headers, body=BODY | fields)

    assert answer.json["status"] == "success"
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("path", ANSWERED_WITH_AN_ERROR)
def test_a_page_of_another_origin_reads_why_not(page: Chrome, site: Served, path: str) -> None:
    answer = fetch(page, site.url + path, headers={"X-API-KEY": site.key}, body=BODY)
    assert (answer.json["status"], bool(answer.json["message"])) == ("error", True)


def test_a_page_of_another_origin_reads_the_refusal_of_a_wrong_key(page: Chrome, site: Served) -> None:
    answer = fetch(page, f"{site.url}/sd/txt2img", headers={"X-API-KEY": "sd_wrong"}, body=BODY)
    assert (answer.status, answer.json["message"]) == (401, "Invalid Api Key")


def test_a_page_of_another_origin_loads_the_picture_and_its_pixels(page: Chrome, site: Served) -> None:
    body = BODY | {"width": "128", "height": "128", "num_inference_steps": "21", "seed": 3}
    answer = fetch(page, f"{site.url}/sd/txt2img", headers={"X-API-KEY": site.key}, body=body)

    finding = detect(picture_of(page, f"return {answer.json['output'][0]!r}"))

    assert (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")


@pytest.mark.parametrize("way", ["header", "bearer"])
def test_a_page_of_another_origin_lists_and_cancels_its_jobs(page: Chrome, site: Served, way: str) -> None:
    headers, _ = authorised(site, way)
    made = fetch(page, f"{site.url}/sd/txt2img", headers=headers, body=BODY).json["id"]

    listed = fetch(page, f"{site.url}/jobs", method="GET", headers=headers)
    assert made in [job["id"] for job in listed.json["jobs"]]
    cancelled = fetch(page, f"{site.url}/jobs/{made}", method="DELETE", headers=headers)
    assert cancelled.json["state"] == "succeeded", "a finished one stays as it is"


def test_a_page_of_another_origin_reads_when_to_come_back(page: Chrome, site: Served) -> None:
    for _ in range(30):  # one more wrong id than an address may guess
        answer = fetch(page, f"{site.url}/sd/fetch", body={"id": 1})
        if answer.status == 429:
            break
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0
