"""What holds for every dialect: the paths of the contract, and that no body whatever is anything but read or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdapi.dialects import enterprise, goapi, v3, v6
from sdapi.dialects.base import Asked, Dialect, Endpoint
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.domain.job import JobStatus

from .hosted_jobs import GOLDEN, LIMITS, NOW, TOKEN, job_of

DIALECTS: list[Dialect] = [goapi, v3, v6, enterprise]
ENDPOINTS = [(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.ENDPOINTS]
EVERY_ENDPOINT = pytest.mark.parametrize(("dialect", "endpoint"), ENDPOINTS, ids=[endpoint.path for _, endpoint in ENDPOINTS])

DRAWING = """
/sd/txt2img /sd/img2img /sd/controlnet /sd/upscale
/api/v3/text2img /api/v3/img2img /api/v3/inpaint /api/v3/super_resolution
/api/v3/dreambooth /api/v3/dreambooth/img2img /api/v3/dreambooth/inpaint
/api/v4/dreambooth /api/v4/dreambooth/img2img /api/v4/dreambooth/inpaint /api/v4/dreambooth/text2video
/api/v5/controlnet /api/v5/super_resolution /api/v5/text2video
/api/v6/images/text2img /api/v6/images/img2img /api/v6/images/inpaint /api/v6/images/controlnet
/api/v6/realtime/text2img /api/v6/realtime/img2img /api/v6/realtime/inpaint
/api/v6/image_editing/super_resolution /api/v6/image_editing/inpaint
/api/v1/enterprise/text2img /api/v1/enterprise/img2img /api/v1/enterprise/inpaint
/api/v1/enterprise/controlnet /api/v1/enterprise/text2video /api/v1/enterprise/super_resolution
/api/v1/enterprise/images/text2img /api/v1/enterprise/images/img2img /api/v1/enterprise/images/inpaint
/api/v1/enterprise/images/controlnet /api/v1/enterprise/images/text2video /api/v1/enterprise/images/super_resolution
/api/v1/enterprise/txt2img/text2img /api/v1/enterprise/txt2img/img2img /api/v1/enterprise/txt2img/inpaint
/api/v1/enterprise/txt2img/controlnet /api/v1/enterprise/txt2img/text2video /api/v1/enterprise/txt2img/super_resolution
/api/v1/enterprise/realtime/text2img /api/v1/enterprise/realtime/img2img /api/v1/enterprise/realtime/inpaint
/api/v1/enterprise/image_editing/super_resolution /api/v1/enterprise/image_editing/inpaint
"""
FETCHING = """
/sd/fetch
/api/v3/fetch /api/v3/fetch/{id} /api/v3/dreambooth/fetch /api/v3/dreambooth/fetch/{id}
/api/v4/dreambooth/fetch /api/v4/dreambooth/fetch/{id}
/api/v6/images/fetch /api/v6/images/fetch/{id} /api/v6/realtime/fetch /api/v6/realtime/fetch/{id}
/api/v6/image_editing/fetch /api/v6/image_editing/fetch/{id}
/api/v1/enterprise/fetch /api/v1/enterprise/fetch/{id}
/api/v1/enterprise/images/fetch /api/v1/enterprise/images/fetch/{id}
/api/v1/enterprise/txt2img/fetch /api/v1/enterprise/txt2img/fetch/{id}
/api/v1/enterprise/realtime/fetch /api/v1/enterprise/realtime/fetch/{id}
/api/v1/enterprise/image_editing/fetch /api/v1/enterprise/image_editing/fetch/{id}
"""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["yes", "null", "1", "a,b", "-1", "0.5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
VALID = {
    "prompt": "a cat",
    "model_id": "demo",
    "init_image": "http://there/a.png",
    "mask_image": "http://there/m.png",
    "controlnet_model": "canny",
}


def test_every_call_of_the_contract_is_there_once() -> None:
    assert sorted(endpoint.path for _, endpoint in ENDPOINTS) == sorted(DRAWING.split())


def test_every_look_up_of_the_contract_is_there_once() -> None:
    assert sorted(row.path for dialect in DIALECTS for row in dialect.FETCH_PATHS) == sorted(FETCHING.split())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.NAME)
def test_every_path_begins_as_its_dialect_says(dialect: Dialect) -> None:
    paths = [endpoint.path for endpoint in dialect.ENDPOINTS] + [row.path for row in dialect.FETCH_PATHS]
    assert [path for path in paths if not path.startswith(tuple(f"{prefix}/" for prefix in dialect.PREFIXES))] == []


@EVERY_ENDPOINT
def test_every_call_has_a_sample_to_show(dialect: Dialect, endpoint: Endpoint) -> None:
    files = {path.name for path in (GOLDEN / dialect.NAME).glob(f"{endpoint.sample}_*.json")}
    assert f"{endpoint.sample}_request.json" in files
    assert files & {f"{endpoint.sample}_success.json", f"{endpoint.sample}_processing.json"}


@EVERY_ENDPOINT
@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_body_is_read_or_refused(dialect: Dialect, endpoint: Endpoint, data: st.DataObject) -> None:
    fields = [*endpoint.body.model_fields, "steps", "guidance", "lora", "embeddings", "clipskip", "prompt_strength", "url", "init_image"]
    odd = data.draw(st.dictionaries(st.sampled_from(fields) | st.text(max_size=5), JSON, max_size=4))
    body: dict[str, Any] = odd if data.draw(st.booleans()) else VALID | odd
    try:
        asked = endpoint.parse(body, LIMITS)
    except (InvalidRequest, ModelNotFound) as refusal:
        json.dumps(dialect.render_error(refusal).body, allow_nan=False)
        return
    assert isinstance(asked, Asked)
    assert asked.endpoint == endpoint.name
    for status in JobStatus:
        # What was read is good enough for the domain, and can be told again.
        rendered = dialect.render_job(job_of(dialect, asked, status=status), eta_s=1.5)
        json.dumps(rendered.body, allow_nan=False).encode()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.NAME)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(body=st.dictionaries(st.sampled_from(["id", "request_id", "key"]) | st.text(max_size=3), JSON))
def test_any_look_up_is_an_id_or_none(dialect: Dialect, body: dict[str, Any]) -> None:
    job_id = dialect.parse_fetch(body)
    assert job_id is None or 1 <= job_id < 2**31


@EVERY_ENDPOINT
def test_as_many_names_as_pictures_and_all_of_them_the_jobs_own(dialect: Dialect, endpoint: Endpoint) -> None:
    asked = endpoint.parse(VALID | {"samples": 3, "url": "http://there/a.png"}, LIMITS)
    names = dialect.output_names(asked, TOKEN, NOW)

    assert len(set(names)) == len(names) == (1 if asked.kind in ("upscale", "text2video") else 3)
    assert all(TOKEN in name for name in names)
