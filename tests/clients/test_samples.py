"""The samples of the hosted services' documentation do against this server what their page says they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .programs import SAMPLES, Programs
from .site import Site, shows_something

GOLDEN = Path(__file__).parents[1] / "golden"

GOAPI = "goapi/txt2img_success"
DRAWING = {
    "goapi_txt2img.py": GOAPI,
    "goapi_txt2img.js": GOAPI,
    "goapi_txt2img.sh": GOAPI,
    "goapi_img2img.py": "goapi/img2img_success",
    "goapi_img2img.sh": "goapi/img2img_success",
    "v3_text2img.sh": "v3/v3_text2img_success",
    "enterprise_text2img.py": "enterprise/text2img_success",
    "enterprise_text2img_fetch.js": "enterprise/text2img_success",
    "enterprise_text2img_request.js": "enterprise/text2img_success",
}
"""Samples that draw, and the documented answer of each."""
LOOKING_UP = ("goapi_fetch.py", "goapi_fetch.js", "goapi_fetch.sh")
LED = ("goapi_controlnet.py", "goapi_controlnet.js", "goapi_controlnet.sh")
ENLARGING = ("goapi_upscale.py", "goapi_upscale.js", "goapi_upscale.sh")


def is_like(documented: Any, answered: Any) -> bool:
    """Whether the answer has at least the documented keys, with values of the same types. What is null on either side says nothing."""
    if documented is None or answered is None:
        return True
    if isinstance(documented, dict):
        return isinstance(answered, dict) and all(name in answered and is_like(value, answered[name]) for name, value in documented.items())
    if isinstance(documented, list):
        return isinstance(answered, list) and len(documented) == len(answered) and all(map(is_like, documented, answered))
    if isinstance(documented, int | float) and not isinstance(documented, bool):
        return isinstance(answered, int | float) and not isinstance(answered, bool)
    return type(documented) is type(answered)


def key_for(sample: str, site: Site) -> str:
    return site.enterprise_key if sample.startswith("enterprise_") else site.key


def test_every_sample_is_run() -> None:
    assert {path.name for path in SAMPLES.iterdir() if path.suffix in (".py", ".js", ".sh")} == {
        *DRAWING,
        *LED,
        *LOOKING_UP,
        *ENLARGING,
    }


@pytest.mark.parametrize("sample", DRAWING)
def test_the_sample_gets_its_picture(sample: str, programs: Programs, site: Site) -> None:
    printed = programs.run(sample, site, key=key_for(sample, site))

    documented = json.loads((GOLDEN / f"{DRAWING[sample]}.json").read_text())
    assert printed.status in (200, None)
    assert printed.body["status"] == "success", printed.body
    assert is_like(documented, printed.body), printed.body
    picture = site.picture(printed.body["output"][0])
    assert picture.size == (printed.body["meta"]["W"], printed.body["meta"]["H"]) == (512, 512)
    assert shows_something(picture)


@pytest.mark.parametrize("sample", LED)
def test_the_sample_gets_its_picture_led_by_the_control_net(sample: str, programs: Programs, site: Site) -> None:
    printed = programs.run(sample, site, key=site.key)

    documented = json.loads((GOLDEN / "goapi/controlnet_processing.json").read_text())
    assert printed.status in (200, None)
    assert printed.body["status"] == "success", printed.body
    assert is_like(documented["meta"], printed.body["meta"]), printed.body
    assert site.picture(printed.body["output"][0]).size == (512, 512)


@pytest.mark.parametrize("sample", LOOKING_UP)
def test_the_sample_finds_the_picture(sample: str, programs: Programs, site: Site) -> None:
    printed = programs.run(sample, site, key=site.key)

    assert printed.status == 200
    assert printed.body == {"status": "success", "id": site.drawn_id, "output": [site.drawn_url]}


@pytest.mark.parametrize("sample", ENLARGING)
def test_the_sample_gets_its_picture_larger(sample: str, programs: Programs, site: Site) -> None:
    printed = programs.run(sample, site, key=site.key)

    documented = json.loads((GOLDEN / "goapi/upscale_success.json").read_text())
    assert printed.status in (200, None)
    assert is_like(documented, printed.body), printed.body
    assert site.picture(printed.body["output"]).size == (512, 512)
