"""The paths the hosted services had and ours, listed one by one: a client that knew them finds them here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from sdapi.http.routers import all_routers
from sdapi.services import DIALECTS

from .fakes_http import fake_services, http_client

ENTERPRISE = [
    "text2img",
    "img2img",
    "inpaint",
    "controlnet",
    "text2video",
    "super_resolution",
    "upload_image",
    "fetch",
    "fetch/{id}",
    "system_details",
    "restart_server",
    "update_server",
    "update_s3",
    "clear_cache",
    "schedulers_list",
    "load_model",
    "verify_model",
    "get_all_models",
    "delete_model",
    "load_vae",
    "load_model_v2",
    "clear_queue",
    "reset_s3",
    "update",
    "update_s3_details",
    "list_schedulers",
    "nsfw_image_check",
]

POSTED = [
    *(f"/sd/{name}" for name in ["txt2img", "img2img", "controlnet", "upscale", "fetch"]),
    *(f"/api/v3/{name}" for name in ["text2img", "img2img", "inpaint", "super_resolution", "system_load", "fetch", "fetch/{id}"]),
    *(f"/api/v3/dreambooth{rest}" for rest in ("", "/img2img", "/inpaint", "/fetch/{id}", "/model_list")),
    *(f"/api/v3/{name}" for name in ["base64_crop", "delete_image", "nsfw_image_check"]),
    *(f"/api/v4/dreambooth{rest}" for rest in ("", "/img2img", "/inpaint", "/fetch", "/fetch/{id}", "/model_list", "/text2video")),
    *(f"/api/v5/{name}" for name in ["controlnet", "super_resolution", "text2video"]),
    *(f"/api/v6/images/{name}" for name in ["text2img", "img2img", "inpaint", "controlnet", "fetch", "fetch/{id}"]),
    *(f"/api/v6/realtime/{name}" for name in ["text2img", "img2img", "inpaint", "fetch", "fetch/{id}"]),
    *(f"/api/v6/image_editing/{name}" for name in ["super_resolution", "inpaint", "fetch", "fetch/{id}"]),
    *(f"/api/v1/enterprise{folder}/{name}" for folder in ("", "/images", "/txt2img") for name in ENTERPRISE),
]
OURS = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/playground"),
    ("GET", "/images/{name:path}"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{job_id}"),
    ("GET", "/jobs/{job_id}/events"),
    ("GET", "/jobs/{job_id}/preview"),
    ("DELETE", "/jobs/{job_id}"),
]


def _routes() -> Iterator[tuple[str, str]]:
    for router in all_routers(DIALECTS):
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from ((method, route.path) for method in route.methods or ())


ROUTES = frozenset(_routes())


@pytest.mark.parametrize("path", POSTED)
def test_every_path_of_the_hosted_services_is_there(path: str) -> None:
    assert ("POST", path) in ROUTES


@pytest.mark.parametrize("path", [path for path in POSTED if "fetch" in path])
def test_every_fetch_answers_get_too(path: str) -> None:
    assert ("GET", path) in ROUTES


@pytest.mark.parametrize(("method", "path"), OURS)
def test_every_path_of_our_own_is_there(method: str, path: str) -> None:
    assert (method, path) in ROUTES


async def test_a_slash_at_the_end_of_any_path_is_tolerated(tmp_path: Path) -> None:
    async with http_client(fake_services(tmp_path)) as client:
        for path in POSTED:
            spelt = path.replace("{id}", "123")
            assert (await client.post(f"{spelt}/")).content == (await client.post(spelt)).content
        for method, path in OURS:
            assert (await client.request(method, f"{path}/")).status_code == (await client.request(method, path)).status_code
