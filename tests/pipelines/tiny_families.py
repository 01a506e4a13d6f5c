"""Tiny models of every family, written once a session, and what stock diffusers draws with them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from sdapi.catalog import Assets, Catalog
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint, quiet_loading

from .drawing import Studio
from .tiny_checkpoint import Family, write_diffusers_folder

# What random networks draw is nearly grey; with this they have contrast, and words are seen in it.
_CONTRAST = 1.0
_ATTENTION = 6.0


@dataclass(frozen=True)
class Kind:
    """Which tiny model."""

    family: Family
    prediction_type: str = "epsilon"
    in_channels: int = 4


SD1 = Kind("sd1")
SD2 = Kind("sd2")
SD2_V = Kind("sd2", "v_prediction")
XL = Kind("sdxl")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-families-")


@cache
def models_dir(kind: Kind) -> Path:
    """A models folder that holds the one model, as `tiny`; nobody changes it."""
    models = Path(_folder().name) / f"{kind.family}-{kind.prediction_type}-{kind.in_channels}"
    with quiet_loading():
        write_diffusers_folder(
            models / "checkpoints" / "tiny",
            family=kind.family,
            levels=4,
            prediction_type=kind.prediction_type,
            in_channels=kind.in_channels,
            contrast=_CONTRAST,
            attention=_ATTENTION,
        )
    return models


def copy_of(kind: Kind, models: Path) -> Path:
    """The same models folder, to change; it may exist."""
    shutil.copytree(models_dir(kind), models, dirs_exist_ok=True)
    return models


@cache
def parts_of(kind: Kind) -> UnetComponents:
    """The model, loaded once for all tests; nobody changes it."""
    return load(models_dir(kind))


def load(models: Path, *, dtype: torch.dtype = torch.float32) -> UnetComponents:
    return load_checkpoint(Catalog(models, aliases={}, embedded=None).get("tiny"), device=torch.device("cpu"), dtype=dtype)


def draw_with(
    parts: UnetComponents,
    request: Txt2Img | Img2Img | Inpaint | ControlNet,
    *pictures: Image.Image | None,
    assets: Assets | None = None,
    **studio: Any,
) -> Image.Image:
    """The request's picture, drawn alone by the model."""
    room = Studio({"demo": UnetModel("demo", parts, assets)}, **studio)
    asked = room.ask(request, *pictures)
    room.draw()
    return asked.image


def stock(kind: Kind, pipeline: str, scheduler: Any = None, **components: Any) -> Any:
    """diffusers' own pipeline of that class, `{}` standing for what its name has for the family."""
    pipeline_class = getattr(diffusers, pipeline.format("XL" if kind.family == "sdxl" else ""))
    folder = models_dir(kind) / "checkpoints" / "tiny"
    with quiet_loading():
        made = pipeline_class.from_pretrained(folder, local_files_only=True, **components)
    if scheduler is not None:
        made.scheduler = scheduler
    made.set_progress_bar_config(disable=True)
    return made


def called(pipeline: Any, request: Txt2Img | Img2Img | Inpaint, **more: Any) -> Image.Image:
    """What the pipeline draws for the request."""
    common = {
        "prompt": request.prompt,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator().manual_seed(request.seed),
    }
    if request.negative_prompt:
        common["negative_prompt"] = request.negative_prompt
    if not isinstance(request, Txt2Img):
        common["strength"] = request.strength
    image: Image.Image = pipeline(**common, **more).images[0]
    return image
