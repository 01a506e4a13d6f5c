"""Where the embedded model is, and what ships beside it."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_ID = "demo"


def embedded_model_dir() -> Path | None:
    """The embedded model's diffusers folder: inside an installed wheel, or beside the package in a checkout. None: it is in neither."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "_models" / EMBEDDED_ID, package.parent / "models" / EMBEDDED_ID)
    return next((place for place in places if (place / "model_index.json").is_file()), None)


def embedded_assets_dir() -> Path | None:
    """The embedded model's own control net, LoRA and so on, in folders named as those of the models folder. None: it has none."""
    model = embedded_model_dir()
    return model / "assets" if model is not None and (model / "assets").is_dir() else None


def embedded_asset_ids() -> frozenset[str]:
    """The ids of all of them, whatever their kind. Reads folders."""
    assets = embedded_assets_dir()
    found = assets.glob("*/*") if assets is not None else ()
    return frozenset(path.name if path.is_dir() else path.stem for path in found if path.suffix != ".toml")
