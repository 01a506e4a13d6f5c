"""multipart/form-data, taken apart while it arrives: texts as strings, large files never in memory whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.sent_file import SentFile

from .arriving import readable
from .spool import Spool

MAX_FIELDS = 1000
_MAX_FILES = 8
_MAX_HEADER_BYTES = 2**13
"""Of all headers of a part together."""
_TEXT_IN_MEMORY_BYTES = 2**20
_FILE_IN_MEMORY_BYTES = 2**18
_TYPES_OF_FILES = (b"image/", b"application/octet-stream")
"""Of parts that are files even without a file's name, which a client need not give."""


@dataclass
class _Part:
    header_name: bytes = b""
    header_value: bytes = b""
    header_bytes: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    has_filename: bool = False
    spool: Spool = field(default_factory=lambda: Spool(None, in_memory_bytes=0))
    """Another one from the end of the headers on; until then nothing is put into it."""


class MultipartReader:
    """Reads one body. A file is at most `max_file_bytes` long and lies in `folder`, which is made when it is needed."""

    def __init__(self, content_type: str, *, max_file_bytes: int, folder: Path | None) -> None:
        self._content_type = content_type
        self._max_file_bytes = max_file_bytes
        self._folder = folder
        self._part = _Part()
        self._parts: list[_Part] = []
        self._files = 0
        self._is_complete = False

    async def read(self, pieces: AsyncIterable[bytes]) -> dict[str, object] | None:
        """The fields; of doubled ones the last; None of a body without any. Whoever gets them closes the files among them.

        Raises InvalidRequest, about "body" or about the field that can't be taken, as soon as that is known; StorageError.
        """
        try:
            parser = self._parser()
            is_empty = True
            async for piece in pieces:
                is_empty = is_empty and not piece
                begun = len(self._parts)
                # Calls the methods below. They put a piece's bytes into memory; the disk is left to threads.
                parser.write(piece)
                for part in self._parts[max(0, begun - 1) :]:
                    await part.spool.settle()
            if is_empty:
                return None
            if not self._is_complete:
                raise _malformed()
            return await self._fields()
        except FormParserError as error:
            raise _malformed() from error
        finally:
            for part in self._parts:
                part.spool.close()

    def _parser(self) -> MultipartParser:
        """Raises FormParserError where the content type has no boundary, or one that is none."""
        boundary = parse_options_header(self._content_type)[1].get(b"boundary")
        if not boundary:
            raise FormParserError("no boundary")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )

    async def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {}
        try:
            for part in {part.name: part for part in self._parts}.values():
                fields[part.name] = await _file_of(part) if part.is_file else await _text_of(part)
        except BaseException:
            close_files(fields)
            raise
        return fields

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._part.header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._part.header_value += data[start:end]

    def _count_header(self, more_bytes: int) -> None:
        self._part.header_bytes += more_bytes
        if self._part.header_bytes > _MAX_HEADER_BYTES:
            raise FormParserError("too long headers")

    def _on_header_end(self) -> None:
        self._part.headers[self._part.header_name.lower()] = self._part.header_value
        self._part.header_name = self._part.header_value = b""

    def _on_headers_finished(self) -> None:
        part = self._part
        _, told = parse_options_header(part.headers.get(b"content-disposition"))
        try:
            part.name = told[b"name"].decode()
        except (KeyError, UnicodeDecodeError) as error:
            raise FormParserError("a part without a name") from error
        part.has_filename = bool(told.get(b"filename"))
        part.is_file = b"filename" in told or part.headers.get(b"content-type", b"").strip().lower().startswith(_TYPES_OF_FILES)
        if len(self._parts) == MAX_FIELDS:
            raise InvalidRequest.of("body", f"The body has more than {MAX_FIELDS} fields.")
        self._files += part.is_file
        if self._files > _MAX_FILES:
            raise InvalidRequest.of("body", f"The body has more than {_MAX_FILES} files.")
        in_memory_bytes = _FILE_IN_MEMORY_BYTES if part.is_file else _TEXT_IN_MEMORY_BYTES
        part.spool = Spool(self._folder, in_memory_bytes=in_memory_bytes, hashed=part.is_file)
        self._parts.append(part)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.is_file and part.spool.size_bytes + end - start > self._max_file_bytes:
            raise InvalidRequest.of(part.name, f"The {part.name} is larger than {readable(self._max_file_bytes)}.")
        part.spool.add(data[start:end])

    def _on_end(self) -> None:
        self._is_complete = True


def close_files(fields: dict[str, object]) -> None:
    """Close the files among them."""
    for value in fields.values():
        if isinstance(value, SentFile):
            value.content.close()


async def _file_of(part: _Part) -> SentFile | str:
    # What a page's form sends of a file nobody chose.
    if not part.spool.size_bytes and not part.has_filename:
        return ""
    return await part.spool.sent_file()


async def _text_of(part: _Part) -> str:
    try:
        # A text may be a picture in base64, on the disk.
        if part.spool.size_bytes > _FILE_IN_MEMORY_BYTES:
            return await asyncio.to_thread(_decoded, part.spool)
        return _decoded(part.spool)
    except UnicodeDecodeError as error:
        raise InvalidRequest.of(part.name, f"The {part.name} is not valid UTF-8.") from error


def _decoded(spool: Spool) -> str:
    return str(spool.contents(), "utf-8")


def _malformed() -> InvalidRequest:
    return InvalidRequest.of("body", "The body is not valid multipart/form-data.")
