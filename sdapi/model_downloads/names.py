"""Which ids a model that is fetched may have."""

from __future__ import annotations

import re
from pathlib import Path

from sdapi.catalog import EMBEDDED_ID, KIND_FOLDERS
from sdapi.catalog.weights import PICKLED_SUFFIXES
from sdapi.domain.errors import InvalidRequest

from .download import NewDownload
from .staging import places_of

FIELD = "model_id"

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_CATALOG_ID = re.compile(r"[A-Za-z0-9]")
# A folder of such a name would be taken for another model's file or sidecar.
_TAKEN_SUFFIXES = frozenset({".toml", ".safetensors", *PICKLED_SUFFIXES})


def fits_as_id(model_id: str) -> bool:
    """Whether the name is at most 100 letters, digits, dots, dashes and underscores, and stays within its folder."""
    return _ID.fullmatch(model_id) is not None and ".." not in model_id


def check_id(new: NewDownload, models_dir: Path) -> None:
    """Refuse an id that can't be a name or belongs to another model. Looks at the disk. Raises InvalidRequest."""
    model_id = new.model_id
    if not fits_as_id(model_id) or not _CATALOG_ID.match(model_id):
        raise InvalidRequest.of(
            FIELD,
            f"The {FIELD} must be 1 to 100 letters, digits, dots, dashes and underscores, begin with a letter or digit, without '..'.",
        )
    suffix = Path(model_id).suffix.lower()
    if suffix in _TAKEN_SUFFIXES:
        raise InvalidRequest.of(FIELD, f"The {FIELD} must not end in {suffix}; leave that away.")
    if model_id == EMBEDDED_ID:
        raise InvalidRequest.of(FIELD, f"The {FIELD} {EMBEDDED_ID!r} belongs to the embedded model; choose another.")
    if not new.replace and any(places_of(models_dir / KIND_FOLDERS[new.kind], model_id)):
        raise InvalidRequest.of(FIELD, f"A {new.kind} with the id {model_id!r} is there already; delete it first, or choose another id.")
