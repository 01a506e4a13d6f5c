"""What is in the models folder: ids, families, sidecars, hashes. Reads headers and JSON only; no model library."""

from .checkpoint import CatalogProblem, Checkpoint, ModelBroken, Sidecar
from .embedded import EMBEDDED_ID, embedded_model_dir
from .listing import Catalog
from .weights import PartWeights, Refused, part_weights

__all__ = [
    "EMBEDDED_ID",
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
