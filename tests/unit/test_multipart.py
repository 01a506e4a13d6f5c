"""Files of multipart forms arrive on the disk and in no folder; what can't be taken is refused early, and nothing of it stays."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.sent_file import SentFile
from sdapi.http.bodies import read_body
from sdapi.http.multipart import close_files
from sdapi.storage import StorageError
from tests.open_files import open_in

LONG = random.Random(0).randbytes(700_000)
"""Too long for memory, and with every byte in it that boundaries are made of."""
MAX_FILE = 1_000_000
MALFORMED = {"body": ["The body is not valid multipart/form-data."]}


class Sender:
    """An ASGI receive that hands out pieces; afterwards the client hangs up where `hangs_up` says so, else it has sent all."""

    def __init__(self, pieces: Iterable[bytes], *, hangs_up: bool = False) -> None:
        self._pieces = chain[bytes | None](pieces, [None])
        self._hangs_up = hangs_up
        self.taken = 0

    async def __call__(self) -> Message:
        piece = next(self._pieces)
        if piece is not None:
            self.taken += 1
            return {"type": "http.request", "body": piece, "more_body": True}
        return {"type": "http.disconnect"} if self._hangs_up else {"type": "http.request", "body": b"", "more_body": False}


def pieces(body: bytes, size: int = 2**16) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def part(name: str, value: bytes, *headers: str, filename: str | None = None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return b"--cut\r\n" + "\r\n".join([disposition, *headers]).encode() + b"\r\n\r\n" + value + b"\r\n"


async def read(sender: Sender, folder: Path, content_type: str = "multipart/form-data; boundary=cut") -> dict[str, object]:
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"content-type", content_type.encode())]}
    return await read_body(Request(scope, sender), max_body_bytes=4 * MAX_FILE, max_file_bytes=MAX_FILE, folder=folder)


async def fields_of(body: bytes, folder: Path) -> dict[str, object]:
    return await read(Sender(pieces(body + b"--cut--\r\n")), folder)


async def problems_with(sender: Sender, folder: Path, content_type: str = "multipart/form-data; boundary=cut") -> dict[str, list[str]]:
    with pytest.raises(InvalidRequest) as refusal:
        await read(sender, folder, content_type)
    assert open_in(folder) == 0
    return refusal.value.problems


def content(value: object) -> bytes:
    assert isinstance(value, SentFile)
    value.content.seek(0)
    return value.content.read()


@pytest.mark.parametrize("data", [LONG, LONG[:1000], LONG[: 2**18], LONG[: 2**18 + 1]])
async def test_a_file_comes_with_its_content_its_size_and_its_hash(tmp_path: Path, data: bytes) -> None:
    fields = await fields_of(part("prompt", b"a cat") + part("init_image", data, filename="a.png") + part("seed", b"5"), tmp_path)
    sent = fields["init_image"]
    assert (fields["prompt"], fields["seed"]) == ("a cat", "5")
    assert content(sent) == data
    assert sent == SentFile(hashlib.sha256(data).hexdigest(), len(data), io.BytesIO())
    close_files(fields)
    assert open_in(tmp_path) == 0


async def test_it_makes_no_difference_where_the_body_is_cut(tmp_path: Path) -> None:
    data = b"\r\n--cu\r\n--cut\r-\n--\r\n--c" * 3
    body = part("a", b"text") + part("init_image", data, filename="x") + b"--cut--\r\n"
    for size in range(1, 40):
        fields = await read(Sender(pieces(body, size)), tmp_path)
        assert fields["a"] == "text"
        assert content(fields["init_image"]) == data


async def test_a_long_file_is_never_in_memory_whole_and_has_no_name_on_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when-needed"
    names: list[str] = []

    def arriving() -> Iterator[bytes]:
        yield part("init_image", b"", filename="../../a.png")[:-2]
        for _ in range(14):
            yield LONG[:65_000]
        names.extend(path.name for path in folder.iterdir())
        yield b"\r\n--cut--\r\n"

    tracemalloc.start()
    try:
        fields = await read(Sender(arriving()), folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sent = fields["init_image"]
    assert isinstance(sent, SentFile)
    assert sent.size_bytes == 910_000
    assert peak < 600_000
    assert names == []
    assert open_in(folder) == 1
    close_files(fields)


@pytest.mark.parametrize("filename", ["../../../etc/cron.d/a", "C:\\a.png", 'a\\"b.png', "a.py", "x" * 3000])
async def test_what_a_file_is_called_counts_for_nothing(tmp_path: Path, filename: str) -> None:
    fields = await fields_of(part("init_image", LONG, filename=filename), tmp_path)
    assert content(fields["init_image"]) == LONG
    close_files(fields)
    assert open_in(tmp_path) == 0


@pytest.mark.parametrize("announced", ["Content-Type: image/png", "content-type: Application/Octet-Stream"])
async def test_a_picture_without_a_files_name_is_a_file_too(tmp_path: Path, announced: str) -> None:
    assert content((await fields_of(part("init_image", b"\x89PNG", announced), tmp_path))["init_image"]) == b"\x89PNG"


async def test_a_text_with_a_type_is_a_text(tmp_path: Path) -> None:
    assert await fields_of(part("prompt", b"a cat", "Content-Type: text/plain"), tmp_path) == {"prompt": "a cat"}


async def test_a_file_nobody_chose_is_not_given(tmp_path: Path) -> None:
    form = part("mask_image", b"", "Content-Type: application/octet-stream", filename="")
    assert await fields_of(form, tmp_path) == {"mask_image": ""}


async def test_of_doubled_files_the_last_counts_and_the_others_are_closed(tmp_path: Path) -> None:
    fields = await fields_of(part("a", LONG, filename="1") + part("a", LONG[::-1], filename="2"), tmp_path)
    assert content(fields["a"]) == LONG[::-1]
    assert open_in(tmp_path) == 1
    close_files(fields)


async def test_a_long_text_is_read_as_it_was_sent(tmp_path: Path) -> None:
    text = "ä" * 1_000_000
    assert await fields_of(part("init_image", text.encode()), tmp_path) == {"init_image": text}
    assert open_in(tmp_path) == 0


async def test_a_text_that_is_not_utf_8_is_refused_by_its_name(tmp_path: Path) -> None:
    body = part("a", LONG, filename="1") + part("prompt", b"\xff") + b"--cut--\r\n"
    assert await problems_with(Sender(pieces(body)), tmp_path) == {"prompt": ["The prompt is not valid UTF-8."]}


async def test_a_file_that_is_too_large_is_refused_by_its_name_and_what_follows_is_only_drained(tmp_path: Path) -> None:
    body = part("mask_image", LONG, filename="m") + part("init_image", LONG * 2, filename="a.png") + b"--cut--\r\n"
    sender = Sender(pieces(body))
    assert await problems_with(sender, tmp_path) == {"init_image": ["The init_image is larger than 1000000 bytes."]}
    assert sender.taken == -(-len(body) // 2**16)


async def test_files_that_are_too_large_together_are_refused_as_a_body_that_is(tmp_path: Path) -> None:
    body = b"".join(part(f"file{n}", LONG, filename="a.png") for n in range(6))
    problems = await problems_with(Sender(pieces(body)), tmp_path)
    assert problems == {"body": ["The body must not be larger than 3.8147 MB."]}


async def test_files_are_counted(tmp_path: Path) -> None:
    body = b"".join(part(f"file{n}", b"", filename="a.png") for n in range(9)) + b"--cut--\r\n"
    assert await problems_with(Sender([body]), tmp_path) == {"body": ["The body has more than 8 files."]}


async def test_thousands_of_parts_are_refused(tmp_path: Path) -> None:
    body = b"".join(part(f"f{n}", b"") for n in range(1001)) + b"--cut--\r\n"
    assert await problems_with(Sender(pieces(body)), tmp_path) == {"body": ["The body has more than 1000 fields."]}


@pytest.mark.parametrize("sent", [0, 1, 100, 400_000])
async def test_nothing_stays_of_a_client_that_hangs_up(tmp_path: Path, sent: int) -> None:
    body = part("mask_image", LONG, filename="m") + part("init_image", LONG, filename="a.png")
    with pytest.raises(ClientDisconnect):
        await read(Sender(pieces(body[: len(LONG) + sent]), hangs_up=True), tmp_path)
    assert open_in(tmp_path) == 0


async def test_nothing_stays_of_a_call_that_is_given_up(tmp_path: Path) -> None:
    never = asyncio.Event()
    begun = Sender(pieces(part("init_image", LONG, filename="a.png")))

    async def receive() -> Message:
        if begun.taken == 10:
            await never.wait()
        return await begun()

    headers = [(b"content-type", b"multipart/form-data; boundary=cut")]
    request = Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}, receive)
    reading = asyncio.create_task(read_body(request, max_body_bytes=MAX_FILE, folder=tmp_path))
    while begun.taken < 10:
        await asyncio.sleep(0.001)
    assert open_in(tmp_path) == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert open_in(tmp_path) == 0


NESTED = (
    b'--cut\r\nContent-Disposition: form-data; name="init_image"\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n'
    b'--in\r\nContent-Disposition: file; filename="a.png"\r\n\r\n\x41\r\n--in--\r\n'
)


async def test_forms_inside_of_forms_are_texts(tmp_path: Path) -> None:
    fields = await fields_of(NESTED + b"\r\n", tmp_path)
    assert fields == {"init_image": '--in\r\nContent-Disposition: file; filename="a.png"\r\n\r\nA\r\n--in--\r\n'}


@pytest.mark.parametrize(
    "body",
    [
        part("init_image", LONG, filename="a.png"),  # no end
        part("init_image", LONG, filename="a.png") + b"--cut",
        b"--other" + part("a", b"1"),
        part("a", b"1", "X-Long: " + "x" * 100_000),
        part("a", b"1", *[f"X-{n}: {'x' * 1000}" for n in range(20)]),
        part("a", b"1", *[f"X-{n}: x" for n in range(3000)]),
        b'--cut\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--cut--\r\n',
        b"--cut\r\n\r\n1\r\n--cut--\r\n",
        b"--cut\r\n: \r\n\r\n1\r\n--cut--\r\n",
        b"\x00" * 1000,
    ],
)
async def test_what_is_no_multipart_is_refused(tmp_path: Path, body: bytes) -> None:
    assert await problems_with(Sender(pieces(body)), tmp_path) == MALFORMED


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 300, "; boundary*=utf-8''cut"])
async def test_a_boundary_that_is_none_is_refused(tmp_path: Path, boundary: str) -> None:
    body = part("a", b"1") + b"--cut--\r\n"
    assert await problems_with(Sender([body]), tmp_path, f"multipart/form-data{boundary}") == MALFORMED


async def test_a_folder_that_takes_no_files_is_the_servers_fault(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(StorageError):
        await fields_of(part("init_image", LONG, filename="a.png"), tmp_path / "folder")


async def test_a_long_json_body_waits_for_its_end_on_the_disk(tmp_path: Path) -> None:
    in_memory: list[int] = []

    def arriving() -> Iterator[bytes]:
        yield b'{"init_image": "'
        for _ in range(50):
            yield b"A" * 2**16
        in_memory.append(tracemalloc.get_traced_memory()[0])
        in_memory.append(open_in(tmp_path))
        yield b'"}'

    tracemalloc.start()
    try:
        fields = await read(Sender(arriving()), tmp_path, "application/json")
    finally:
        tracemalloc.stop()
    assert fields == {"init_image": "A" * 50 * 2**16}
    assert in_memory[0] < 600_000
    assert in_memory[1] == 1
    assert open_in(tmp_path) == 0


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"a": "' + b"A" * 2**21 + b'\xff"}', "The body is not valid UTF-8."),
        (b'{"a": "' + b"A" * 2**21, "The body is not valid JSON."),
        (b" " * 2**21, "The body is empty: send the fields as a JSON object."),
    ],
)
async def test_a_long_body_is_refused_in_the_words_of_a_short_one(tmp_path: Path, body: bytes, sentence: str) -> None:
    assert await problems_with(Sender(pieces(body)), tmp_path, "application/json") == {"body": [sentence]}


async def test_a_long_form_is_read(tmp_path: Path) -> None:
    body = b"prompt=a+cat&init_image=" + b"A" * 2**21
    fields = await read(Sender(pieces(body)), tmp_path, "application/x-www-form-urlencoded")
    assert fields == {"prompt": "a cat", "init_image": "A" * 2**21}
