"""The hosted vendor's own Python client, with nothing changed but its `base_url` and key."""

from __future__ import annotations

from typing import Any

import pytest
from modelslab_py.core.apis.community import Community
from modelslab_py.core.apis.image_editing import Image_editing
from modelslab_py.core.apis.realtime import Realtime
from modelslab_py.core.client import Client
from modelslab_py.schemas.community import ControlNet, Image2Image, Text2Image
from modelslab_py.schemas.image_editing import SuperResolutionSchema
from modelslab_py.schemas.realtime import RealtimeText2ImageSchema
from recipe.detector import detect

from .site import Site

GREEN_SQUARE: dict[str, Any] = {
    "prompt": "a green square on a white background",
    "model_id": "demo",
    "width": 128,
    "height": 128,
    "seed": 3,
}


def client_of(site: Site, key: str) -> Client:
    client = Client(key, fetch_retry=120, fetch_timeout=1)
    client.base_url = f"{site.url}/api/"
    return client


@pytest.fixture
def community(site: Site) -> Community:
    return Community(client_of(site, site.key))


@pytest.fixture
def enterprise(site: Site) -> Community:
    return Community(client_of(site, site.enterprise_key), enterprise=True)


def assert_shows_a_green_square(site: Site, url: str) -> None:
    picture = site.picture(url)
    finding = detect(picture)
    assert picture.size == (128, 128)
    assert (finding.background, finding.colour, finding.shape) == ("white", "green", "square")


def test_it_draws(community: Community, site: Site) -> None:
    answer = community.text_to_image(Text2Image(**GREEN_SQUARE))
    assert answer["status"] == "success", answer
    assert_shows_a_green_square(site, answer["output"][0])


def test_it_draws_with_an_enterprise_key(enterprise: Community, site: Site) -> None:
    answer = enterprise.text_to_image(Text2Image(**GREEN_SQUARE))
    assert answer["status"] == "success", answer
    assert_shows_a_green_square(site, answer["output"][0])


def test_it_draws_in_real_time(site: Site) -> None:
    schema = RealtimeText2ImageSchema(prompt=GREEN_SQUARE["prompt"], width=128, height=128, seed=3)
    answer = Realtime(client_of(site, site.key)).text_to_image(schema)
    assert answer["status"] == "success", answer
    assert_shows_a_green_square(site, answer["output"][0])


def test_it_starts_from_a_picture(community: Community, site: Site) -> None:
    answer = community.image_to_image(Image2Image(**GREEN_SQUARE, init_image=site.drawn_url, strength=0.5))
    assert answer["status"] == "success", answer
    assert site.picture(answer["output"][0]).size == (128, 128)


@pytest.mark.parametrize("kind", ["community", "enterprise"])
def test_it_polls_until_the_picture_is_there(kind: str, request: pytest.FixtureRequest, site: Site) -> None:
    api: Community = request.getfixturevalue(kind)
    answer = api.text_to_image(Text2Image(**GREEN_SQUARE, instant_response=True))
    assert answer["status"] == "processing", answer

    fetched = api.fetch(str(answer["id"]))
    assert fetched["status"] == "success"
    assert fetched["output"] == answer["future_links"]
    assert_shows_a_green_square(site, fetched["output"][0])


def test_it_reads_how_the_server_is(enterprise: Community) -> None:
    details = enterprise.system_details()
    assert details["status"] == "ok"
    assert isinstance(details["model_count"], int)
    assert isinstance(details["queue_time"], int)


def test_it_clears_the_cache_and_the_queue(enterprise: Community) -> None:
    assert enterprise.clear_cache()["status"] == "success"
    assert enterprise.clear_queue()["status"] == "success"


def test_it_draws_led_by_a_control_net(community: Community, site: Site) -> None:
    schema = ControlNet(**GREEN_SQUARE, init_image=site.drawn_url, controlnet_model="canny", controlnet_type="canny")
    answer = community.controlnet(schema)
    assert answer["status"] == "success", answer
    assert (answer["meta"]["controlnet_model"], answer["meta"]["controlnet_type"]) == ("canny", "canny")


def test_it_is_told_plainly_that_a_control_net_is_not_there(community: Community, site: Site) -> None:
    schema = ControlNet(**GREEN_SQUARE, init_image=site.drawn_url, controlnet_model="depth", controlnet_type="depth")
    with pytest.raises(Exception, match=r"There is no control net named 'depth' on this server\. There are: canny, demo-canny\."):
        community.controlnet(schema)


def test_it_makes_a_picture_larger(site: Site) -> None:
    schema = SuperResolutionSchema(init_image=site.drawn_url, scale=2, model_id="demo-x2")
    answer = Image_editing(client_of(site, site.key)).super_resolution(schema)
    assert answer["status"] == "success", answer
    assert site.picture(answer["output"][0]).size == (512, 512)


def test_it_is_told_plainly_that_its_usual_upscaler_is_not_there(site: Site) -> None:
    schema = SuperResolutionSchema(init_image=site.drawn_url, scale=2)
    with pytest.raises(Exception, match=r"There is no upscaler named 'ultra_resolution' on this server\. There are: demo-x2\."):
        Image_editing(client_of(site, site.key)).super_resolution(schema)


def test_it_draws_in_real_time_with_an_enterprise_key(site: Site) -> None:
    drawing = Realtime(client_of(site, site.enterprise_key), enterprise=True)
    answer = drawing.text_to_image(RealtimeText2ImageSchema(prompt="a green square on a white background", width=128, height=128))
    assert answer["status"] == "success"


def test_its_enterprise_image_editing_is_answered_too(site: Site) -> None:
    schema = SuperResolutionSchema(init_image=site.drawn_url, scale=2, model_id="demo-x2")
    answer = Image_editing(client_of(site, site.enterprise_key), enterprise=True).super_resolution(schema)
    assert answer["status"] == "success", answer
