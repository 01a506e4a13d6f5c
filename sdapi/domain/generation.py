"""What is asked of the drawing: one frozen value per kind of request, bounds in the types, seed concrete."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_SEED = 2**32 - 1
MAX_STEPS = 51
MAX_SAMPLES = 4
MIN_SIDE_PX = 64

Pixels = Annotated[int, Field(ge=MIN_SIDE_PX, multiple_of=8)]
"""A side of a picture. The upper limit is a setting, checked where requests come in."""


class SchedulerName(StrEnum):
    """Samplers by their diffusers class name, as the hosted services spell them."""

    DDPM = "DDPMScheduler"
    DDIM = "DDIMScheduler"
    PNDM = "PNDMScheduler"
    LMS = "LMSDiscreteScheduler"
    EULER = "EulerDiscreteScheduler"
    EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
    DPM_MULTISTEP = "DPMSolverMultistepScheduler"
    HEUN = "HeunDiscreteScheduler"
    KDPM2 = "KDPM2DiscreteScheduler"
    DPM_SINGLESTEP = "DPMSolverSinglestepScheduler"
    KDPM2_ANCESTRAL = "KDPM2AncestralDiscreteScheduler"
    UNIPC = "UniPCMultistepScheduler"
    DEIS = "DEISMultistepScheduler"


class _Generation(BaseModel):
    """What every kind of drawing has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(min_length=1)
    """Catalog id (never an alias: those are resolved before)."""
    prompt: str
    """Final text, trigger words included."""
    negative_prompt: str = ""
    width: Pixels = 512
    height: Pixels = 512
    seed: int = Field(ge=0, le=MAX_SEED)
    """Seed of the first sample; sample i uses seed + i, modulo 2^32."""
    samples: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    steps: int = Field(default=30, ge=1, le=MAX_STEPS)
    guidance_scale: float = Field(default=7.5, ge=1, le=20)
    scheduler: SchedulerName | None = None
    """None: the checkpoint's own."""
    clip_skip: int = Field(default=1, ge=1, le=8)
    """1 uses the text encoder's last layer, 2 the one before, as users of A1111 count."""


class Txt2Img(_Generation):
    """A picture from words alone."""

    kind: Literal["txt2img"] = "txt2img"


class Img2Img(_Generation):
    """A picture from words and a picture to start from."""

    kind: Literal["img2img"] = "img2img"
    init_image: str
    """Name in storage of the downloaded, decoded and re-encoded input picture."""
    strength: float = Field(default=0.8, ge=0, le=1)
    """How much of the input is noised away; 1 ignores it."""


GenerationRequest = Annotated[Txt2Img | Img2Img, Field(discriminator="kind")]

GENERATION_JSON: TypeAdapter[Txt2Img | Img2Img] = TypeAdapter(GenerationRequest)
"""The one way a request becomes JSON for the jobs table and comes back."""
