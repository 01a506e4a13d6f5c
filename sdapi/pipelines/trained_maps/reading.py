"""Trained annotators from their files to the device; whatever is wrong is told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, assert_never

import safetensors.torch
import torch

from sdapi.catalog import Refused
from sdapi.catalog.annotators import InstalledAnnotator
from sdapi.domain.control_maps import AnnotatorName, ControlMap
from sdapi.pipelines.control.annotators import Map, Rgb
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.loading.mapped_weights import own_memory
from sdapi.pipelines.loading.reading_errors import told_as_broken

from .depth import DepthAnnotator
from .faces import FaceAnnotator
from .lines import HedAnnotator, LineArtAnnotator
from .pose import PoseAnnotator
from .segmentation import SegmentationAnnotator


class Annotator(Protocol):
    """What makes one or several kinds of map; shared by all who ask for them, so nobody changes it."""

    size_bytes: int
    """What it takes in memory."""

    def map_of(self, kind: ControlMap, rgb: Rgb) -> Map:
        """The map of a picture, of the picture's size."""
        ...


def read_annotator(installed: InstalledAnnotator, *, device: torch.device) -> Annotator:
    """Blocks for seconds. Raises ModelBroken where the files are damaged or something else, and torch.OutOfMemoryError.

    In float32 whatever the drawing has: a map is made once a picture, and half precision draws steps into depths.
    """
    with told_as_broken(installed.name, f"The annotator in models/annotators/{installed.name}/"):
        return _read(installed, device)


def _read(installed: InstalledAnnotator, device: torch.device) -> Annotator:
    # Imported here, because it takes seconds of whoever draws without any.
    import transformers

    path = installed.path
    match installed.name:
        case AnnotatorName.DEPTH:
            return DepthAnnotator(*_model(transformers.AutoModelForDepthEstimation, path, device), size_bytes=installed.size_bytes)
        case AnnotatorName.SEGMENTATION:
            network = _model(transformers.AutoModelForSemanticSegmentation, path, device)
            return SegmentationAnnotator(*network, size_bytes=installed.size_bytes)
        case AnnotatorName.OPENPOSE:
            pose = _model(transformers.VitPoseForPoseEstimation, path / "pose", device)
            people = _model(transformers.AutoModelForObjectDetection, path / "people", device)
            return PoseAnnotator(*pose, *people, size_bytes=installed.size_bytes)
        case AnnotatorName.HED:
            with quiet_loading():  # while diffusers builds a network, all that are built beside it have no weights
                return HedAnnotator(safetensors.torch.load_file(path), device=device)
        case AnnotatorName.LINEART:
            with quiet_loading():
                return LineArtAnnotator(safetensors.torch.load_file(path), device=device)
        case AnnotatorName.FACE_DETECTOR:
            return FaceAnnotator(path)
        case _:
            assert_never(installed.name)


def _model(model_class: Any, folder: Path, device: torch.device) -> tuple[Any, Any]:
    """A network of transformers and what prepares pictures for it."""
    import transformers

    with quiet_loading():
        network, loaded = model_class.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # transformers only warns of missing weights, and fills them with random numbers.
    if loaded["missing_keys"]:
        raise Refused(f"It lacks weights such as {min(loaded['missing_keys'])}.")
    network = network.eval().requires_grad_(requires_grad=False).to(device)
    own_memory(network)
    return network, processor
