"""What is in the models folder: ids, families, sidecars, hashes. Reads headers and JSON only; no model library."""

from .asset_inspection import ASSET_KINDS, KIND_FOLDERS, AssetKind
from .assets import Asset, Assets
from .checkpoint import CatalogProblem, Checkpoint, ModelBroken, Sidecar
from .embedded import EMBEDDED_ID, embedded_asset_ids, embedded_assets_dir, embedded_model_dir
from .family import FAMILY_NAMES, FILM_FAMILIES, UNET_FAMILIES, WHOLE_FAMILIES, Family, FilmFamily, UnetFamily, WholeFamily
from .listing import Catalog
from .weights import PartWeights, Refused, part_weights

__all__ = [
    "ASSET_KINDS",
    "EMBEDDED_ID",
    "FAMILY_NAMES",
    "FILM_FAMILIES",
    "KIND_FOLDERS",
    "UNET_FAMILIES",
    "WHOLE_FAMILIES",
    "Asset",
    "AssetKind",
    "Assets",
    "Catalog",
    "CatalogProblem",
    "Checkpoint",
    "Family",
    "FilmFamily",
    "ModelBroken",
    "PartWeights",
    "Refused",
    "Sidecar",
    "UnetFamily",
    "WholeFamily",
    "embedded_asset_ids",
    "embedded_assets_dir",
    "embedded_model_dir",
    "part_weights",
]
