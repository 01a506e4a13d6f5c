"""Configurations inside a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .weights import Refused

_MAX_CONFIG_BYTES = 2**20


def read_json(path: Path) -> dict[str, Any]:
    """A configuration inside a model's folder. Raises Refused where it is missing or no JSON object, and OSError."""
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise Refused(f"{name} is missing.")
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as refusal:
        raise Refused(f"{name} is not JSON.") from refusal
    if not isinstance(value, dict):
        raise Refused(f"{name} is not a JSON object.")
    return value
