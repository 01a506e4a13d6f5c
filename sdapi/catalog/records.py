"""What is recorded of a model when it is fetched or added: three fields of its sidecar, beside whatever its owner wrote there."""

from __future__ import annotations

import json
import secrets
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = "# recorded by sdapi"
"""Ends the lines that are ours, which the next recording replaces."""

_MAX_CHARS = 2000


@dataclass(frozen=True)
class Origin:
    """Where a model came from; what is empty is not recorded."""

    source: str
    sha256: str
    licence: str = ""


def sidecar_path(path: Path, model_id: str) -> Path:
    """Where the sidecar of the model at `path` belongs: beside it."""
    return path.with_name(f"{model_id}.toml")


def record_origin(sidecar: Path, origin: Origin) -> bool:
    """Write `origin` into the sidecar, and make it where there is none. Fields its owner gave stay as they are.

    False where the sidecar is something that can't be added to. Raises OSError.
    """
    text = ""
    if sidecar.exists():
        if not sidecar.is_file():
            return False
        try:
            text = "".join(
                line for line in sidecar.read_text(encoding="utf-8").splitlines(keepends=True) if not line.rstrip().endswith(MARK)
            )
            given = tomllib.loads(text)
        except (ValueError, RecursionError):
            return False  # the catalog tells its owner what is wrong with it
    else:
        given = {}
    ours = {name: value for name, value in asdict(origin).items() if value and name not in given}
    # First in the file: after a table's heading a line would belong to that table.
    fresh = "".join(f"{name} = {_quoted(value)}  {MARK}\n" for name, value in ours.items()) + text
    hidden = sidecar.with_name(f".{sidecar.name}.{secrets.token_hex(4)}")
    try:
        hidden.write_text(fresh, encoding="utf-8")
        hidden.replace(sidecar)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise
    return True


def _quoted(value: str) -> str:
    """As a TOML string; of what can be printed, JSON's strings are all TOML's, too."""
    return json.dumps("".join(letter for letter in value if letter.isprintable())[:_MAX_CHARS], ensure_ascii=False)
