"""The request bodies of stablediffusionapi.com, alike in v3 to v6 and enterprise: one for each kind of job.

All fields are read everywhere, because clients move between the versions without changing what they send. Every number may be a
string, every yes/no a boolean; null, "" and "null" mean not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field

from sdapi.domain.generation import MAX_SAMPLES, MAX_UPSCALE, MAX_VIDEO_SECONDS

from .wire_types import (
    Algorithm,
    CoveringType,
    LooseScheduler,
    Names,
    Number,
    PictureBody,
    Scalar,
    Scales,
    Scheduler,
    Seed,
    SentPicture,
    SidePx,
    Steps,
    Strengths,
    Text,
    TextList,
    Times,
    WholeNumber,
    YesNo,
    between,
)

_PICTURE = "http(s) URL, data: URL, base64, or a file of a multipart form"
Strength = Annotated[Number, between(0, 1)]


class JobBody(PictureBody):
    """What every call that makes a job reads."""

    absent_words: ClassVar[Mapping[str, frozenset[str]]] = {
        "webhook": frozenset({"0"}),
        "embeddings_model": frozenset({"no"}),
        "embeddings": frozenset({"no"}),
        "algorithm_type": frozenset({"none"}),
    }

    key: Any = Field(default=None, description="API key; the headers X-API-KEY and Authorization: Bearer are read, too")
    webhook: Text | None = Field(default=None, description="URL that is POSTed to when the job has ended")
    track_id: Scalar = Field(default=None, description="Told to the webhook in the type it came in")
    base64: YesNo = Field(default=False, description="Whether the output is a text file of base64")
    temp: YesNo = Field(default=False, description="Whether the output is kept for a day only")
    instant_response: YesNo = Field(default=False, description="Whether to be answered at once instead of held until the output is there")


class DrawingBody(JobBody):
    """What every call that draws reads."""

    model_id: Text | None = None
    prompt: Text
    negative_prompt: Text = ""
    width: SidePx | None = Field(default=None, description="64 to 1024 (a setting), rounded down to a multiple of 8; default 512")
    height: SidePx | None = Field(default=None, description="As width")
    samples: Annotated[WholeNumber, between(1, MAX_SAMPLES)] = Field(default=1, description="1 to 4")
    num_inference_steps: Steps | None = Field(
        default=None, validation_alias=AliasChoices("num_inference_steps", "steps"), description="1 to 51; more is lowered"
    )
    guidance_scale: Annotated[Number, between(1, 20)] | None = Field(
        default=None, validation_alias=AliasChoices("guidance_scale", "guidance"), description="1 to 20; default 7.5"
    )
    seed: Seed = Field(default=None, description="0 to 4294967295; null or -1 for a random one")
    enhance_prompt: YesNo = Field(default=True, description="Whether the model's own enhancement words are appended")
    safety_checker: YesNo | None = Field(
        default=None, description="Whether unsafe pictures are covered, where a checker is installed; default no, and yes in enterprise"
    )
    safety_checker_type: CoveringType | None = Field(
        default=None, description="How: black, blur, pixelate or sensitive_content_text, which is the default"
    )
    multi_lingual: YesNo | None = Field(default=False, description="Whether prompts in 51 languages are translated into English first")
    panorama: YesNo = Field(default=False, description="Drawn in windows, and joins its left side at its right")
    self_attention: YesNo = Field(default=False, description="Perturbed-attention guidance: better structure for half as much time again")
    highres_fix: YesNo = Field(default=False, description="Drawn at a size the model knows, then enlarged and drawn over; from words only")
    upscale: Times = Field(default="no", description="yes doubles the finished picture; 1, 2 and 3 are factors")
    embeddings_model: TextList = Field(
        default=(), validation_alias=AliasChoices("embeddings_model", "embeddings"), description="Ids, separated by commas"
    )
    lora_model: TextList = Field(default=(), validation_alias=AliasChoices("lora_model", "lora"), description="Ids, separated by commas")
    lora_strength: Strengths = Field(default=(), description="One number for all, or as many as there are in lora_model")
    scheduler: Scheduler | None = Field(default=None, description="Class name, or as A1111 calls it; without it the model's own")
    sampling_method: LooseScheduler = Field(default=None, description="Read where there is no scheduler; an unknown one has no effect")
    algorithm_type: Algorithm | None = Field(default=None, description="For DPM solvers: none, dpmsolver, dpmsolver++, sde-dpmsolver++, …")
    use_karras_sigmas: YesNo | None = Field(default=None, description="Without it as the model's own scheduler has it")
    tomesd: YesNo | None = Field(default=None, description="Whether similar places share a token: quicker, a little less exact")
    clip_skip: Annotated[WholeNumber, between(1, 8)] = Field(
        default=1, validation_alias=AliasChoices("clip_skip", "clipskip"), description="1 to 8; 1 uses the last layer"
    )
    vae: Text | None = None
    loadbalancer: Any = Field(default=None, description="Taken, without effect: the queue shares the devices out")


class Img2ImgBody(DrawingBody):
    """What calls that start from a picture read besides."""

    init_image: SentPicture = Field(description=_PICTURE)
    strength: Strength = Field(
        default=0.7, validation_alias=AliasChoices("strength", "prompt_strength"), description="0 to 1; 1 ignores the init image"
    )


class InpaintBody(Img2ImgBody):
    """What calls that redraw a part of a picture read besides."""

    mask_image: SentPicture = Field(description=_PICTURE + "; white, or else the transparent part, is drawn anew")


class ControlNetBody(DrawingBody):
    """What calls that are led by control nets read besides. One of `init_image` and `control_image` must be there."""

    prompt: Text = Field(default="", description="Required unless guess_mode is yes")
    init_image: SentPicture | None = Field(default=None, description=_PICTURE)
    control_image: SentPicture | None = Field(default=None, description=_PICTURE + "; without it init_image leads")
    mask_image: SentPicture | None = Field(default=None, description=_PICTURE)
    controlnet_model: Names = Field(description="Ids, separated by commas")
    controlnet_type: Text | None = Field(default=None, description="The annotator that makes the control map; without it the image is one")
    auto_hint: YesNo | None = Field(default=None, description="Whether the annotator is run; default yes, and no in enterprise")
    guess_mode: YesNo = False
    multi_lingual: YesNo | None = Field(default=None, description="As elsewhere; default yes where a translator is installed")
    controlnet_conditioning_scale: Scales = Field(default=(1.0,), description="0 to 20; one number, or one for each controlnet_model")
    strength: Strength = Field(
        default=0.55, validation_alias=AliasChoices("strength", "prompt_strength"), description="0 to 1; 1 ignores the init image"
    )


class VideoBody(DrawingBody):
    """What calls that make a film read besides."""

    ignored: ClassVar[frozenset[str]] = frozenset({"output_format", "output_quality"})
    """Films are mp4 files."""

    seconds: Annotated[Number, between(1, MAX_VIDEO_SECONDS)] = Field(default=3, description="1 to 20")


class UpscaleBody(JobBody):
    """What calls that make a picture larger read."""

    names_of_picture: ClassVar[tuple[str, ...]] = ("url", "init_image")
    """The fields the picture may come in; a refusal uses the one that came."""

    model_id: Text | None = Field(default=None, description="Id of the upscaling model; default realesr-general-x4v3, or what there is")
    url: SentPicture = Field(validation_alias=AliasChoices("url", "init_image"), description=_PICTURE)
    scale: Annotated[Number, between(1, MAX_UPSCALE)] = Field(default=2, description="1 to 4")
    face_enhance: YesNo = False


class EditingUpscaleBody(UpscaleBody):
    """The same as v6 spells it."""

    names_of_picture: ClassVar[tuple[str, ...]] = ("init_image", "url")

    url: SentPicture = Field(validation_alias=AliasChoices("init_image", "url"), description=_PICTURE)
