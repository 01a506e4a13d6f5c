"""The settings the HTTP edge needs, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdapi.dialects.base import ReadLimits


@dataclass(frozen=True)
class HttpLimits:
    """What requests may ask for, and how answers are given."""

    max_body_bytes: int
    max_file_bytes: int
    """Of each file that comes as a part of a form."""
    reading: ReadLimits
    sync_wait_s: float
    """How long a call is held for its picture at most."""
    fetch_requires_key: bool
    standard_error_status: bool
    """Whether errors have HTTP's own status codes in the dialects that always said 200, too."""
    public_url: str | None
    """Base of the links in answers; None takes the request's own scheme and host."""
    incoming_dir: Path | None = None
    """Where long bodies lie while they arrive; None is where the system keeps temporary files."""
