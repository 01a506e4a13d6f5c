"""What is in the models folder: ids, families, sidecars, hashes. Reads headers and JSON only; no model library."""

from .asset_inspection import ASSET_KINDS, KIND_FOLDERS, AssetKind
from .assets import Asset, Assets
from .checkpoint import CatalogProblem, Checkpoint, ModelBroken, Sidecar
from .embedded import EMBEDDED_ID, embedded_model_dir
from .listing import Catalog
from .weights import PartWeights, Refused, part_weights

__all__ = [
    "ASSET_KINDS",
    "EMBEDDED_ID",
    "KIND_FOLDERS",
    "Asset",
    "AssetKind",
    "Assets",
    "Catalog",
    "CatalogProblem",
    "Checkpoint",
    "ModelBroken",
    "PartWeights",
    "Refused",
    "Sidecar",
    "embedded_model_dir",
    "part_weights",
]
