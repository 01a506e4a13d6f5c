"""Structured logs: one JSON object a line for machines, one readable line for a terminal. Keys and prompts never go in."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

_LIBRARY_NOISE = ("color_message", "taskName")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", *_LIBRARY_NOISE}


class _TextFormatter(logging.Formatter):
    """`time level logger: message key=value ...`."""

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        first, *rest = super().format(record).split("\n")
        return "\n".join([f"{first} {extra}".rstrip(), *rest])


def configure_logging(level: str, form: Literal["auto", "json", "text"]) -> None:
    """Send all logs to standard error. "auto" is text on a terminal, JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "text" or (form == "auto" and sys.stderr.isatty()):
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        names = {"asctime": "time", "levelname": "level"}
        reserved = [*RESERVED_ATTRS, *_LIBRARY_NOISE]
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names, reserved_attrs=reserved))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Their INFO lines repeat ours, request by request; httpx's would also carry whole URLs.
    for noisy in ("httpx", "httpcore", "alembic", "aiosqlite", "asyncio", "multipart", "PIL", "diffusers", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
