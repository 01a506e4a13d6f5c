"""Where the embedded model is."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_ID = "demo"


def embedded_model_dir() -> Path | None:
    """The embedded model's diffusers folder: inside an installed wheel, or beside the package in a checkout. None: it is in neither."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "_models" / EMBEDDED_ID, package.parent / "models" / EMBEDDED_ID)
    return next((place for place in places if (place / "model_index.json").is_file()), None)
