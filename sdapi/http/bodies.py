"""Request bodies as dicts: JSON with or without its content type, form fields, multipart fields; never larger than allowed."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import AsyncIterable
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl

from fastapi import Request

from sdapi.domain.errors import InvalidRequest

from .arriving import ArrivingBody
from .multipart import MAX_FIELDS, MultipartReader
from .spool import Spool

_LONG_TO_PARSE_BYTES = 2**18
_IN_MEMORY_BYTES = 2**20
"""What is longer waits for its end on the disk: the bodies of many slow clients would fill the memory."""
_BLANK = re.compile(rb"\s*\Z")
_BEGINS_WITH_BRACE = re.compile(rb"\s*\{")
_BODYLESS_METHODS = frozenset({"GET", "HEAD", "DELETE"})


async def read_body(
    request: Request, *, max_body_bytes: int, max_file_bytes: int | None = None, folder: Path | None = None
) -> dict[str, object]:
    """The fields of the body; of doubled ones the last. A GET without a body gives its query parameters.

    The files of a multipart body come as SentFile, each at most `max_file_bytes` long (None: as the body); whoever gets the fields
    closes them. What is long lies in `folder` meanwhile, or where the system keeps temporary files.
    Raises InvalidRequest when the body is empty, too large, or not readable as fields, about "body" or the field that is at fault;
    StorageError when there is no room.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    arriving = ArrivingBody(request, max_bytes=max_body_bytes)
    try:
        if kind == "multipart/form-data":
            fields = await MultipartReader(content_type, max_file_bytes=max_file_bytes or max_body_bytes, folder=folder).read(arriving)
        else:
            fields = await _read_whole(arriving, kind, folder)
    except InvalidRequest:
        await arriving.drain()
        raise
    if fields is not None:
        return fields
    if request.method in _BODYLESS_METHODS:
        return dict(request.query_params)
    raise InvalidRequest.of("body", "The body is empty: send the fields as a JSON object.")


async def _read_whole(pieces: AsyncIterable[bytes], kind: str, folder: Path | None) -> dict[str, object] | None:
    """The fields of a body that can only be read once it has come whole; None of one without any."""
    spool = Spool(folder, in_memory_bytes=_IN_MEMORY_BYTES)
    try:
        async for piece in pieces:
            spool.add(piece)
            await spool.settle()
        # A body with base64 pictures takes long enough to read that others would notice.
        if spool.size_bytes > _LONG_TO_PARSE_BYTES:
            return await asyncio.to_thread(_fields_of, spool, kind)
        return _fields_of(spool, kind)
    finally:
        spool.close()


def _fields_of(spool: Spool, kind: str) -> dict[str, object] | None:
    """Closes the spool when it has the text, so that no more than the text and the fields made of it are there at once."""
    raw = spool.contents()
    try:
        if _BLANK.match(raw):
            return None
        # `curl -d '{...}'` without a header announces a form; no form's first field name begins with a brace.
        is_form = kind == "application/x-www-form-urlencoded" and not _BEGINS_WITH_BRACE.match(raw)
        begins = 0 if is_form or bytes(raw[:3]) != codecs.BOM_UTF8 else 3
        text = str(raw[begins:], "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("body", "The body is not valid UTF-8.") from error
    finally:
        del raw  # which keeps the file; an error keeps what this frame has
    spool.close()
    return _form_fields(text) if is_form else _json_fields(text)


def _json_fields(text: str) -> dict[str, object]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidRequest.of("body", "The body is nested too deeply.") from error
    except ValueError as error:
        raise InvalidRequest.of("body", "The body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidRequest.of("body", "The body must be a JSON object.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which Python's reader takes and JSON does not know


def _form_fields(text: str) -> dict[str, object]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("body", "The body is not valid UTF-8.") from error
    except ValueError as error:
        raise InvalidRequest.of("body", f"The body has more than {MAX_FIELDS} fields.") from error
