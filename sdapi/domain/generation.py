"""What is asked of the drawing: one frozen value per kind of request, bounds in the types, seed concrete."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from .picture_formats import DEFAULT_FORMAT, DEFAULT_QUALITY, PictureFormat
from .prompt_words import PromptPiece
from .safety import SafetyType

MAX_SEED = 2**32 - 1
MAX_STEPS = 51
MAX_SAMPLES = 4
MIN_SIDE_PX = 64
MAX_UPSCALE = 4
MAX_UPSCALED_PIXELS = 8192 * 8192
MAX_REPAINTED_PIXELS = 2048 * 2048
MAX_VIDEO_SECONDS = 20
MAX_LORA_STRENGTH = 2.0
MAX_LORAS = 8

Pixels = Annotated[int, Field(ge=MIN_SIDE_PX, multiple_of=8)]
"""A side of a picture. The upper limit is a setting, checked where requests come in."""
Quality = Annotated[int, Field(ge=1, le=100)]
"""Of a JPEG or WebP file; PNG files are always exact."""


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
    DDIM_INVERSE = "DDIMInverseScheduler"
    IPNDM = "IPNDMScheduler"
    KARRAS_VE = "KarrasVeScheduler"
    SCORE_SDE_VE = "ScoreSdeVeScheduler"
    LCM = "LCMScheduler"
    TCD = "TCDScheduler"
    DPM_SDE = "DPMSolverSDEScheduler"


AlgorithmType = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]
"""Which equation the DPM solvers solve; those of `sde-` add fresh noise at every step."""


class LoraUse(BaseModel):
    """A LoRA at a strength."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    """Catalog id."""
    strength: float = Field(default=1.0, ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH)
    """0 does nothing; below 0 leads away from what it was trained on."""


class Translation(BaseModel):
    """What of the prompts is to be put into English before they are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    translator: str = Field(min_length=1)
    """Its id."""
    prompt: tuple[PromptPiece, ...]
    negative_prompt: tuple[PromptPiece, ...]
    """All of each prompt."""


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
    use_karras_sigmas: bool | None = None
    """None: as the checkpoint's scheduler has it."""
    algorithm_type: AlgorithmType | None = None
    """Means something to DPM solvers only. None: as the checkpoint's scheduler has it."""
    clip_skip: int = Field(default=1, ge=1, le=8)
    """1 uses the text encoder's last layer, 2 the one before, as users of A1111 count."""
    loras: tuple[LoraUse, ...] = Field(default=(), max_length=MAX_LORAS)
    embeddings: tuple[str, ...] = ()
    """Catalog ids of the textual inversions it asked for; those that a prompt merely names work too."""
    vae: str | None = None
    """Catalog id; None: the checkpoint's own."""
    panorama: bool = False
    """Whether it is drawn in overlapping windows, and goes on from its right side at its left."""
    self_attention: bool = False
    """Whether perturbed-attention guidance leads it, beside the prompts."""
    token_merging: bool = False
    """Whether similar places are attended to as one: quicker, and a little less exact."""
    highres_fix: bool = False
    multi_lingual: bool = False
    """Whether the prompts are drawn in English, whatever they were written in."""
    translation: Translation | None = None
    """None where nothing is left to translate."""
    upscale: int = Field(default=0, ge=0, le=3)
    """Times the finished picture is enlarged by; 0 leaves it, 1 redraws it at its own size."""
    upscaler: str | None = None
    """Catalog id of what enlarges it; None where `upscale` is 0."""
    safety: SafetyType | None = None
    """How it is covered should a checker call it unsafe; None: it needn't be looked at."""
    output_format: PictureFormat = DEFAULT_FORMAT
    """Of its file; films have their own."""
    output_quality: Quality = DEFAULT_QUALITY


class Txt2Img(_Generation):
    """A picture from words alone."""

    kind: Literal["txt2img"] = "txt2img"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in storage of the pictures it starts from."""
        return ()


class Img2Img(_Generation):
    """A picture from words and a picture to start from."""

    kind: Literal["img2img"] = "img2img"
    init_image: str
    """Name in storage of the downloaded, decoded and re-encoded input picture."""
    strength: float = Field(default=0.8, ge=0, le=1)
    """How much of the input is noised away; 1 ignores it."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in storage of the pictures it starts from."""
        return (self.init_image,)


class Inpaint(_Generation):
    """A picture of which only the masked part (white) is drawn anew."""

    kind: Literal["inpaint"] = "inpaint"
    init_image: str
    mask_image: str
    strength: float = Field(default=0.7, ge=0, le=1)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in storage of the pictures it starts from."""
        return (self.init_image, self.mask_image)


class ControlNet(_Generation):
    """A picture from words, its structure led by control nets."""

    kind: Literal["controlnet"] = "controlnet"
    controlnet_models: tuple[str, ...] = Field(min_length=1)
    controlnet_type: str | None = None
    """Which annotator makes the control map; None: the image is one already."""
    init_image: str | None = None
    control_image: str | None = None
    mask_image: str | None = None
    auto_hint: bool = True
    guess_mode: bool = False
    conditioning_scales: tuple[float, ...] = (1.0,)
    """One for all control nets, or one each; 0 to 20."""
    strength: float = Field(default=0.55, ge=0, le=1)
    """How much of the init image is noised away, where it is drawn over."""

    @property
    def draws_over_init_image(self) -> bool:
        """Whether the drawing starts from `init_image`; a lone one only leads, and the drawing starts from noise."""
        return self.init_image is not None and (self.control_image is not None or self.mask_image is not None)

    @property
    def scale_of_each_net(self) -> tuple[float, ...]:
        """As many as there are control nets."""
        return self.conditioning_scales if len(self.conditioning_scales) > 1 else self.conditioning_scales * len(self.controlnet_models)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in storage of the pictures it starts from."""
        return tuple(name for name in (self.init_image, self.control_image, self.mask_image) if name is not None)


class Text2Video(_Generation):
    """A short film from words."""

    kind: Literal["text2video"] = "text2video"
    seconds: float = Field(default=3, gt=0, le=MAX_VIDEO_SECONDS)
    """As asked for; the film has the nearest length its model can draw (`films.py`)."""
    motion_adapter: str | None = None
    """Catalog id of what moves the pictures of `checkpoint`; None: that draws films by itself."""
    frames: int = Field(default=24, ge=1)
    frames_per_s: int = Field(default=8, ge=1)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in storage of the pictures it starts from."""
        return ()


class Upscale(BaseModel):
    """A picture made larger."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: Literal["upscale"] = "upscale"
    init_image: str
    """Name in storage of the input, at its own size."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    """Of the input, in pixels."""
    scale: float = Field(default=2, ge=1, le=MAX_UPSCALE)
    upscaler: str
    """Id of the upscaling model."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Concrete, too; it means something to upscalers that draw."""
    face_enhance: bool = False
    safety: SafetyType | None = None
    """See _Generation."""
    output_format: PictureFormat = DEFAULT_FORMAT
    output_quality: Quality = DEFAULT_QUALITY

    @property
    def samples(self) -> int:
        """Pictures that come out."""
        return 1

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in storage of the pictures it starts from."""
        return (self.init_image,)


AnyRequest = Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video | Upscale
GenerationRequest = Annotated[AnyRequest, Field(discriminator="kind")]

GENERATION_JSON: TypeAdapter[AnyRequest] = TypeAdapter(GenerationRequest)
"""The one way a request becomes JSON for the jobs table and comes back."""
