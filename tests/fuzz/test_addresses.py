"""Request lines that no client library would send: never a 5xx, never a file that nobody put there to be read."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import budget
from .target import TIMEOUT_S, Target

METHODS = (*("GET",) * 5, "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "BREW")
STEMS = (
    "/",
    "//",
    "/images",
    "/images/sd",
    "/images/generations",
    "/images/temp",
    "/jobs",
    "/playground",
    "/docs",
    "/openapi.json",
    "/sd/fetch",
    "/api/v3/fetch",
    "/api/v6/images/fetch",
    "/api/v1/enterprise/fetch",
    "/api/v4/dreambooth",
    "*",
    "http://elsewhere.invalid/images",
)
SEGMENTS = st.sampled_from(
    (
        "..",
        "%2e%2e",
        "..%2f..%2f..%2fetc%2fpasswd",
        "..%5c..%5c",
        "%00",
        "%ff",
        "%ed%a0%80",
        "%",
        "%zz",
        "0-" + "a" * 300 + ".png",
        "a" * 5_000,
        "1" * 400,
        "-1",
        "0",
        "1e5",
        "%D9%A3",
        "secret.key",
        "sdapi.sqlite3",
        "events",
        "preview",
        ";a=b",
        "a:b",
        "",
    )
) | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=8)
QUERIES = st.sampled_from(
    (
        "",
        "?",
        "?limit=-1",
        "?limit=99999999999999999999",
        "?limit=%00",
        "?limit=a&limit=b",
        "?key=%ff",
        "?id=%00&key=%ed%a0%80",
        "?" + "a=1&" * 2_000,
    )
)
HEADERS = st.dictionaries(
    st.sampled_from(
        (
            "X-API-KEY",
            "Authorization",
            "Range",
            "If-None-Match",
            "If-Modified-Since",
            "Last-Event-ID",
            "Origin",
            "Host",
            "Expect",
            "Content-Length",
        )
    ),
    st.sampled_from(
        (
            b"",
            b" ",
            b"\xff\xfe",
            b"Bearer ",
            b"bytes=0-,5-1,-0",
            b"bytes=99999999999999999999-",
            b"-1",
            b"a" * 3_000,
            b"Mon, 99 Foo",
            b"null",
        )
    ),
    max_size=3,
)
SECRET = re.compile(rb"root:|SQLite format|BEGIN ")


@pytest.fixture(scope="module")
def address(target: Target) -> tuple[str, int]:
    parts = urlsplit(target.server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@budget.repeatable(budget.addresses())
@given(
    method=st.sampled_from(METHODS),
    stem=st.sampled_from(STEMS),
    segments=st.lists(SEGMENTS, max_size=3),
    query=QUERIES,
    headers=HEADERS,
    sends_key=st.booleans(),
)
def test_no_request_line_whatsoever_breaks_the_server(
    target: Target,
    address: tuple[str, int],
    method: str,
    stem: str,
    segments: list[str],
    query: str,
    headers: dict[str, bytes],
    sends_key: bool,
) -> None:
    connection = HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]  # sends what it would refuse to
        connection.putrequest(method, "/".join((stem, *segments)) + query, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in (({"X-API-KEY": target.key.encode()} if sends_key else {}) | headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        status, body = response.status, response.read(2**20)
    except (HTTPException, ConnectionError):
        return  # what isn't HTTP at all may be hung up on
    finally:
        connection.close()

    assert status < 500, body
    assert not SECRET.search(body)
