"""What the catalog hands out: checkpoints, and what is wrong with those it can't."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdapi.domain.errors import SdapiError
from sdapi.domain.generation import MAX_STEPS, SchedulerName

from .family import Family
from .weights import Refused

Layout = Literal["diffusers", "single_file"]
PredictionType = Literal["epsilon", "v_prediction"]

_MAX_SIDECAR_BYTES = 64 * 2**10


class ModelBroken(SdapiError):
    """A checkpoint that is in the catalog can't be loaded. The text is a sentence for the client; the cause is for the log."""

    def __init__(self, model_id: str, sentence: str) -> None:
        self.model_id = model_id
        super().__init__(sentence)


class Sidecar(BaseModel):
    """What `<id>.toml` may say about a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = ""
    trigger: str = ""
    """Words the model was trained to answer to; they go before every prompt."""
    enhance: str = ""
    """Words that make its pictures better, for clients that ask to have their prompt enhanced."""
    negative: str = ""
    """Negative words, for the same."""
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(default=None, ge=1, le=20)
    prediction_type: PredictionType | None = None
    """Overrides the scheduler's configuration and what a single file says; most single files say nothing."""
    scheduler: SchedulerName | None = None
    aliases: tuple[Annotated[str, Field(pattern=r"^[^*\s][^*]*$", max_length=200)], ...] = ()
    description: str = ""
    licence: str = ""
    source: str = ""
    """Where it came from. This, the licence and the hash are recorded when a model is fetched or added."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Of the model as it came, see `hashes.model_sha256`; empty: not known."""


@dataclass(frozen=True)
class Checkpoint:
    """One model that can be drawn with, and what its sidecar says."""

    id: str
    path: Path
    """The diffusers folder, or the single file."""
    layout: Layout
    family: Family
    in_channels: int
    """Channels a UNet takes: 4, or 9 for inpainting models, which are shown the mask and the masked picture. 0 for whole pipelines."""
    weights: tuple[Path, ...]
    """The files that hold tensors."""
    size_bytes: int
    """Of the weights on disk."""
    modified_at: datetime
    """Of the newest weights file, UTC."""
    title: str = ""
    trigger: str = ""
    enhance: str = ""
    negative: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    prediction_type: PredictionType | None = None
    scheduler: SchedulerName | None = None
    aliases: tuple[str, ...] = ()
    description: str = ""
    longest_frames: int | None = None
    """How many frames a model for films knows; None: any number, or it draws pictures."""
    is_motion_adapter: bool = False
    """Whether it draws films only together with a checkpoint."""
    motion_adapter: str | None = None
    """Of a checkpoint that was chosen to draw a film: what moves its pictures."""


@dataclass(frozen=True)
class CatalogProblem:
    """Something in the models folder that can't be used, and why, in a sentence for the operator."""

    path: Path
    sentence: str


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar at `path`, or an empty one where there is none. Raises Refused, saying what is wrong with it."""
    if not path.is_file():
        return Sidecar()
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SIDECAR_BYTES + 1)
    except OSError as refusal:
        raise Refused(f"Its sidecar {path.name} can't be read: {refusal.strerror}.") from refusal
    if len(text) > _MAX_SIDECAR_BYTES:
        raise Refused(f"Its sidecar {path.name} is longer than {_MAX_SIDECAR_BYTES // 1024} KiB.")
    try:
        return Sidecar.model_validate(tomllib.loads(text.decode()))
    except ValidationError as refusal:
        found = "; ".join(f"{'.'.join(map(str, error['loc']))}: {_words(error['type'], error['msg'])}" for error in refusal.errors())
        raise Refused(f"Its sidecar {path.name} is not valid: {found}.") from refusal
    except (ValueError, RecursionError) as refusal:
        # TOMLDecodeError and UnicodeDecodeError are both ValueErrors.
        raise Refused(f"Its sidecar {path.name} is not TOML: {refusal}.") from refusal


def _words(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such setting (" + ", ".join(Sidecar.model_fields) + ")"
    return message
