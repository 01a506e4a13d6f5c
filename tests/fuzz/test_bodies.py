"""Bodies that no description would allow, at every call that takes one: never a 5xx, always JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from . import budget
from .target import TIMEOUT_S, Target
from .test_openapi import operations
from .usual import NOWHERE, PICTURE, USUAL

CONTENT_TYPES = (
    None,
    "application/json",
    "application/json; charset=utf-16",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "text/plain",
    "application/octet-stream",
    "nonsense",
    "",
)
ODD_TEXTS = (
    "",
    " ",
    "null",
    "\x00",
    "\ud800",
    "a\udfffb",
    "nan",
    "-inf",
    "1e400",
    "0x10",
    "1_000",
    "٣",
    "²",
    "-0",
    "9" * 400,
    "%00",
    "../../etc/passwd",
    NOWHERE,
    "http://[::1]:9/a.png",
    "http://",
    "http://[",
    "http://a:b@c:99999/",
    "http://" + "a" * 300 + ".invalid/",
    "data:image/png;base64,",
    PICTURE,
    "data:,",
    PICTURE.partition(",")[2],
    "a" * 30_000,
    "((((((((((a:1e30))))))))))",
    "(" * 5_000,
    ",,,,",
    "a,a,a,a",
)
ODD_NUMBERS = (0, -1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 1e-300, 1.7e308, 0.1)
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(st.characters(), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from(ODD_NUMBERS) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DEEP = st.integers(1, 200_000).flatmap(
    lambda depth: st.sampled_from((b"[" * depth, b'{"prompt":' * min(depth, 50_000), b'{"a":' + b"[" * depth))
)
BROKEN = st.sampled_from(
    (
        b"",
        b"null",
        b"true",
        b"1e999",
        b'"text"',
        b"NaN",
        b"[]",
        b"[{}]",
        b"{",
        b'{"prompt": NaN}',
        b'{"prompt": 1e999, "seed": 1e999, "track_id": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\u0000", "key": "\\u0000"}',
        b'{"prompt": "a",}',
        b'{"prompt": "a"}{"prompt": "b"}',
        b'{"\\ud800": 1, "\\u0000": 2}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"prompt=%ff&seed=%00",
        b"=&&&==",
        b"a=1&" * 2_000,
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="prompt"; filename="a"\r\n\r\n1\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\x00\r\n--x--\r\n',
        b"--x",
    )
)


def paths() -> list[str]:
    """The calls that take a body, with and without a slash at the end."""
    described = sorted({one.path for one in operations().values() if one.method.upper() == "POST"})
    return [path + end for path in described for end in ("", "/")]


def fields() -> list[str]:
    """Every field of every call."""
    schemas = (body.definition.get("schema", {}) for one in operations().values() for body in one.body)
    return sorted({name for schema in schemas for name in schema.get("properties", {})})


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Real fields with values that nobody would send; or one such value among what somebody would."""
    if draw(st.booleans()):
        return json.dumps(draw(st.dictionaries(st.sampled_from(fields()), VALUES, max_size=12))).encode()
    return json.dumps({**USUAL, draw(st.sampled_from(fields())): draw(VALUES)}).encode()


@budget.repeatable(budget.undescribed(len(operations())))
@given(
    path=st.sampled_from(paths()),
    content_type=st.sampled_from(CONTENT_TYPES),
    body=objects() | objects() | BROKEN | st.binary(max_size=300) | DEEP,
    sends_key=st.sampled_from((True, True, True, False)),
    names_a_job=st.booleans(),
    idempotency_key=st.none() | st.sampled_from(("", "a", "a" * 300, "\xff", "same")),
)
def test_no_body_whatsoever_breaks_the_server(
    target: Target, path: str, content_type: str | None, body: bytes, sends_key: bool, names_a_job: bool, idempotency_key: str | None
) -> None:
    headers = {"Content-Type": content_type, "Idempotency-Key": idempotency_key, "X-API-KEY": target.key if sends_key else None}
    job_id = str(target.ids[-1]) if names_a_job and target.ids else "%00"
    response = target.session.post(
        target.server.url + path.replace("{id}", job_id),
        data=body,
        headers={name: value.encode("latin-1") for name, value in headers.items() if value is not None},
        timeout=TIMEOUT_S,
    )

    assert response.status_code < 500, response.text
    assert isinstance(response.json(), dict | list)
    target.note(response.content)
