from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
from fastapi import Request
from starlette.types import Message

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.sent_file import SentFile
from sdapi.http.bodies import read_body

MAX = 1000
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=cut"


class Sender:
    """An ASGI receive that hands out chunks and counts how many were taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = list(chunks)
        self.taken = 0

    async def __call__(self) -> Message:
        self.taken += 1
        return {"type": "http.request", "body": self._chunks[self.taken - 1], "more_body": self.taken < len(self._chunks)}


def a_request(
    sender: Sender, content_type: str | None = None, *, method: str = "POST", query: str = "", length: int | None = None
) -> Request:
    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    scope = {"type": "http", "method": method, "path": "/", "query_string": query.encode(), "headers": headers}
    return Request(scope, sender)


async def read(body: bytes, content_type: str | None = None, *, method: str = "POST", query: str = "") -> dict[str, object]:
    return await read_body(a_request(Sender([body]), content_type, method=method, query=query), max_body_bytes=MAX)


async def problem_with(body: bytes, content_type: str | None = None) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        await read(body, content_type)
    assert list(refusal.value.problems) == ["body"]
    return refusal.value.problems["body"][0]


def part(name: str, value: bytes, filename: str = "") -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--cut\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8", "text/plain", FORM])
async def test_json_is_read_under_any_content_type(content_type: str | None) -> None:
    assert await read(b'{"prompt": "a c\xc3\xa4t", "seed": null}', content_type) == {"prompt": "a cät", "seed": None}


async def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert await read(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


async def test_a_body_in_pieces_is_put_together() -> None:
    assert await read_body(a_request(Sender([b'{"a"', b": ", b"1}"])), max_body_bytes=MAX) == {"a": 1}


async def test_of_doubled_keys_the_last_one_counts() -> None:
    assert await read(b'{"a": 1, "a": 2}') == {"a": 2}
    assert await read(b"a=1&a=2", FORM) == {"a": "2"}
    assert await read(part("a", b"1") + part("a", b"2") + b"--cut--\r\n", MULTIPART) == {"a": "2"}


async def test_a_form_is_read() -> None:
    assert await read(b"prompt=a+c%C3%A4t&seed=&width=512", FORM) == {"prompt": "a cät", "seed": "", "width": "512"}


async def test_multipart_fields_are_read() -> None:
    body = part("prompt", "a cät".encode()) + part("width", b"512") + b"--cut--\r\n"
    assert await read(body, MULTIPART) == {"prompt": "a cät", "width": "512"}


async def test_an_uploaded_file_is_a_value_of_its_own() -> None:
    fields = await read(part("init_image", b"\x89PNG", filename="a.png") + b"--cut--\r\n", MULTIPART)
    sent = fields["init_image"]
    assert isinstance(sent, SentFile)
    assert sent.content.read() == b"\x89PNG"


@pytest.mark.parametrize("body", [b"", b"  \n"])
async def test_an_empty_body_is_refused(body: bytes) -> None:
    assert "empty" in await problem_with(body)


async def test_a_get_without_a_body_gives_its_query() -> None:
    assert await read(b"", method="GET", query="id=5&key=k") == {"id": "5", "key": "k"}


@pytest.mark.parametrize("body", [b'{"a": 1,}', b"{", b"prompt=a", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": ' + b"9" * 5000 + b"}"])
async def test_broken_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await read_body(a_request(Sender([body])), max_body_bytes=10_000)
    assert refusal.value.problems == {"body": ["The body is not valid JSON."]}


@pytest.mark.parametrize("body", [b"[1]", b'"a"', b"1", b"null"])
async def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert await problem_with(body) == "The body must be a JSON object."


@pytest.mark.parametrize(("body", "content_type"), [(b'{"a": "\xff"}', None), (b"a=\xff", FORM), (b"a=%FF", FORM)])
async def test_what_is_not_utf_8_is_refused(body: bytes, content_type: str | None) -> None:
    assert await problem_with(body, content_type) == "The body is not valid UTF-8."


async def test_deep_nesting_is_refused() -> None:
    body = b'{"a":' + b"[" * 100_000
    with pytest.raises(InvalidRequest) as refusal:
        await read_body(a_request(Sender([body])), max_body_bytes=len(body))
    assert refusal.value.problems == {"body": ["The body is nested too deeply."]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"no parts", MULTIPART),
        (part("a", b"1") + b"--cut--\r\n", "multipart/form-data"),
        (b"--cut\r\nContent-Disposition: form-data\r\n\r\nx\r\n--cut--\r\n", MULTIPART),
        (b"--cut\r\nno header\r\n\r\nx\r\n--cut--\r\n", MULTIPART),
    ],
)
async def test_broken_multipart_is_refused(body: bytes, content_type: str) -> None:
    assert await problem_with(body, content_type) == "The body is not valid multipart/form-data."


async def test_a_form_of_countless_fields_is_refused() -> None:
    body = b"&".join(b"a=1" for _ in range(2000))
    with pytest.raises(InvalidRequest):
        await read_body(a_request(Sender([body]), FORM), max_body_bytes=len(body))


async def test_a_body_without_a_length_is_refused_when_it_grows_too_large_but_read_to_its_end() -> None:
    sender = Sender([b"x" * 600] * 5)
    with pytest.raises(InvalidRequest) as refusal:
        await read_body(a_request(sender), max_body_bytes=MAX)
    assert refusal.value.problems == {"body": ["The body must not be larger than 1000 bytes."]}
    assert sender.taken == 5


async def test_a_body_without_an_end_is_not_read_for_ever() -> None:
    sender = Sender([b"x" * 600] * 1000)
    with pytest.raises(InvalidRequest):
        await read_body(a_request(sender), max_body_bytes=MAX)
    assert sender.taken == 7


async def test_a_body_that_announces_far_too_much_is_not_read_at_all() -> None:
    sender = Sender([b"{}"])
    with pytest.raises(InvalidRequest):
        await read_body(a_request(sender, length=100_000), max_body_bytes=MAX)
    assert sender.taken == 0


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = b'{"a": 1}'.ljust(MAX)
    assert await read(body) == {"a": 1}


class LargeBody:
    """A JSON object with one long text, made piece by piece as it arrives."""

    def __init__(self, pieces: int, piece_bytes: int) -> None:
        self._pieces = [b'{"init_image": "', *[b""] * pieces, b'"}']
        self._piece_bytes = piece_bytes
        self._taken = 0

    async def __call__(self) -> Message:
        piece = self._pieces[self._taken] or b"A" * self._piece_bytes
        self._taken += 1
        return {"type": "http.request", "body": piece, "more_body": self._taken < len(self._pieces)}


async def test_a_large_body_is_never_there_more_than_twice() -> None:
    """As it came and as text; then as text and as fields."""
    size = 128 * 2**16
    request = Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}, LargeBody(128, 2**16))
    tracemalloc.start()
    try:
        fields = await read_body(request, max_body_bytes=2 * size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fields == {"init_image": "A" * size}
    assert peak < 2.5 * size
