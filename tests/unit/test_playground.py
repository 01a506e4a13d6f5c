"""The playground's files over HTTP; tests/browser uses the page itself."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from .fakes_http import fake_services, http_client

FILES = ["/playground", "/playground/", "/playground/app.js", "/playground/style.css", "/playground/icon.svg"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(fake_services(tmp_path)) as client:
        yield client


@pytest.mark.parametrize("path", FILES)
async def test_its_files_need_no_key_and_are_what_they_say(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    expected = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}.get(path.rpartition(".")[2], "text/html")
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, expected)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.head(path)).headers["ETag"] == answer.headers["ETag"]


@pytest.mark.parametrize("path", FILES)
async def test_who_has_a_file_is_told_so(client: httpx.AsyncClient, path: str) -> None:
    etag = (await client.get(path)).headers["ETag"]

    for known in (etag, f'"other", W/{etag}'):
        answer = await client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert (await client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize("path", ["/playground/none.js", "/playground/__init__.py", "/playground/..%2f..%2fsettings.py", "/playground/%00"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_only_this_servers_scripts_styles_and_answers_are_allowed(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/playground")).headers["Content-Security-Policy"]
    rules = {name: sources.split() for name, _, sources in (rule.strip().partition(" ") for rule in policy.split(";"))}

    assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == ["'self'"]
    assert set(rules["img-src"]) == {"'self'", "blob:", "data:", "http:", "https:"}


@pytest.mark.parametrize("path", FILES)
async def test_nothing_is_loaded_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    text = (await client.get(path)).text
    assert set(re.findall(r"https?://[\w.-]+", text)) <= {"http://www.w3.org"}, "the name of SVG's namespace is not loaded"


@pytest.mark.parametrize(("path", "folder"), [("/playground", "playground/"), ("/playground/", "./")])
async def test_links_are_relative_to_the_folder_so_that_a_prefix_does_no_harm(client: httpx.AsyncClient, path: str, folder: str) -> None:
    page = (await client.get(path)).text
    assert f'<base href="{folder}">' in page
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) > 4
    assert not [link for link in links if link.startswith("/")]
