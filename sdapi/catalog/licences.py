"""The licence a model names itself: in its model card's front matter, or in the header of its file."""

from __future__ import annotations

import re
from pathlib import Path

from .checkpoint import Layout
from .weights import Refused, read_header

_MAX_CARD_BYTES = 256 * 2**10
_MAX_LICENCE_CHARS = 200
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_IN_METADATA = ("modelspec.license", "license")


def licence_of(path: Path, layout: Layout) -> str:
    """What the model at `path` says, such as "openrail++"; empty where it says nothing that can be read."""
    try:
        if layout == "diffusers":
            with (path / "README.md").open("rb") as file:
                return licence_of_card(file.read(_MAX_CARD_BYTES).decode(errors="replace"))
        metadata = read_header(path).metadata
    except (OSError, Refused):
        return ""
    return next((metadata[name].strip()[:_MAX_LICENCE_CHARS] for name in _IN_METADATA if metadata.get(name)), "")


def licence_of_card(text: str) -> str:
    """`license` of a model card's front matter; where that is "other", its `license_name`."""
    found = _FRONT_MATTER.match(text)
    lines = found[1].splitlines() if found else []
    # Front matter is YAML; these two are plain words on one line in every card.
    said = {name: value.strip().strip("\"'") for name, colon, value in (line.partition(":") for line in lines) if colon}
    licence = said.get("license", "")
    return (said.get("license_name") or licence if licence == "other" else licence)[:_MAX_LICENCE_CHARS]
