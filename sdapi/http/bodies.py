"""Request bodies as dicts: JSON with or without its content type, form fields, multipart fields; never larger than allowed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import NoReturn
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from sdapi.domain.errors import InvalidRequest

_DRAINED_TIMES = 4
"""Of a body that is too large, up to so many times the limit is read and thrown away: a client whose sending is cut off never
reads our answer."""
_DRAIN_S = 10.0
_MAX_FIELDS = 1000
_LONG_TO_PARSE_BYTES = 2**18
_PIECE_BYTES = 2**16
_BEGINS_WITH_BRACE = re.compile(rb"\s*\{")
_BODYLESS_METHODS = frozenset({"GET", "HEAD", "DELETE"})


async def read_body(request: Request, *, max_body_bytes: int) -> dict[str, object]:
    """The fields of the body; of doubled ones the last. A GET without a body gives its query parameters.

    Raises InvalidRequest about the field "body" when it is empty, too large, or not readable as fields.
    """
    raw = await _read_limited(request, max_body_bytes)
    if not raw or raw.isspace():
        if request.method in _BODYLESS_METHODS:
            return dict(request.query_params)
        raise InvalidRequest.of("body", "The body is empty: send the fields as a JSON object.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _multipart_fields(request, raw)
    # `curl -d '{...}'` without a header announces a form; no form's first field name begins with a brace.
    if kind == "application/x-www-form-urlencoded" and not _BEGINS_WITH_BRACE.match(raw):
        return _form_fields(raw)
    # A body with base64 pictures takes long enough to read that others would notice.
    return await asyncio.to_thread(_json_fields, raw) if len(raw) > _LONG_TO_PARSE_BYTES else _json_fields(raw)


async def _read_limited(request: Request, max_body_bytes: int) -> bytearray:
    """One buffer that grows: pieces to be joined at the end would hold all of it twice."""
    too_large = InvalidRequest.of("body", f"The body must not be larger than {_size(max_body_bytes)}.")
    most_read = max_body_bytes * _DRAINED_TIMES
    if _declared_bytes(request.headers) > most_read:
        raise too_large
    raw = bytearray()
    size = 0
    try:
        async with asyncio.timeout(None) as deadline:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most_read:
                    break
                if size <= max_body_bytes:
                    raw += chunk
                elif deadline.when() is None:
                    raw.clear()
                    deadline.reschedule(asyncio.get_running_loop().time() + _DRAIN_S)
    except TimeoutError:
        raise too_large from None
    if size > max_body_bytes:
        raise too_large
    return raw


def _declared_bytes(headers: Mapping[str, str]) -> int:
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) < 20 else 0


def _json_fields(raw: bytearray) -> dict[str, object]:
    """Empties `raw`, so that no more than the text and the fields made of it are there at once."""
    try:
        text = raw.decode("utf-8-sig")
        raw.clear()
        value = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("body", "The body is not valid UTF-8.") from error
    except RecursionError as error:
        raise InvalidRequest.of("body", "The body is nested too deeply.") from error
    except ValueError as error:
        raise InvalidRequest.of("body", "The body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidRequest.of("body", "The body must be a JSON object.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which Python's reader takes and JSON does not know


def _form_fields(raw: bytearray) -> dict[str, object]:
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS))
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("body", "The body is not valid UTF-8.") from error
    except ValueError as error:
        raise InvalidRequest.of("body", f"The body has more than {_MAX_FIELDS} fields.") from error


async def _multipart_fields(request: Request, raw: bytearray) -> dict[str, object]:
    parser = MultiPartParser(request.headers, _in_pieces(raw), max_files=_MAX_FIELDS, max_fields=_MAX_FIELDS, max_part_size=len(raw))
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest.of("body", "The body is not valid multipart/form-data.") from error
    try:
        fields = dict(form)
        for name, value in fields.items():
            if isinstance(value, UploadFile):
                raise InvalidRequest.of(name, f"The {name} must be sent as text (a URL or base64), not as a file.")
    finally:
        await form.close()
    return dict(fields)


async def _in_pieces(raw: bytearray) -> AsyncGenerator[bytes, None]:
    view = memoryview(raw)
    for start in range(0, len(raw), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:g} MB" if count_bytes >= 2**20 else f"{count_bytes} bytes"
