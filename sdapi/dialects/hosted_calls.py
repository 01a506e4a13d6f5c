"""The calls of stablediffusionapi.com that make jobs, as rows: where each is found, how it is read, what its answers carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue

from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.domain.generation import MAX_STEPS
from sdapi.domain.sampler_names import NamedSampler

from .base import Asked, Endpoint, Kind, Picture, PictureRole, ReadLimits, rejecting, scale_per_net, spelt, strength_per_lora
from .hosted_fields import ControlNetBody, DrawingBody, Img2ImgBody, InpaintBody, JobBody, UpscaleBody, VideoBody
from .hosted_meta import MetaRow, yes_no

_DEFAULT_SIDE_PX = 512
_ROLES: tuple[PictureRole, ...] = ("init_image", "mask_image", "control_image")
_TIMES = {"no": 0, "yes": 2, "1": 1, "2": 2, "3": 3}
_SUMMARIES: Mapping[Kind, str] = {
    "txt2img": "Draw what the prompt says.",
    "img2img": "Draw what the prompt says, starting from a picture.",
    "inpaint": "Draw the masked part of a picture anew.",
    "controlnet": "Draw with a picture leading the structure.",
    "text2video": "Make a short film of what the prompt says.",
    "upscale": "Make a picture larger.",
}


@dataclass(frozen=True, kw_only=True)
class HostedCall:
    """One call, in all that its siblings differ by."""

    name: str
    """What jobs remember of it; never changed."""
    paths: tuple[str, ...]
    kind: Kind
    body: type[JobBody]
    meta: MetaRow | None
    """None for the kinds whose answers never had a meta."""
    fetch_path: str
    """Where answers send the client for the outcome; the id follows."""
    sample: str
    needs_model: bool = False
    """Whether "Model id not found" is said to a request without model_id."""
    default_steps: int = 30
    max_steps: int = MAX_STEPS
    default_auto_hint: bool = True
    default_safety_checker: bool = False
    has_proxy_links: bool = True
    """Whether a success carries `proxy_links` and `nsfw_content_detected`, as it does from v4 on."""

    def parse(self, body: Mapping[str, object], limits: ReadLimits) -> Asked:
        """See Endpoint. Raises ModelNotFound with no id and no models where the call needs one and has none."""
        with rejecting():
            read = self.body.model_validate(body, context={"max_side_px": limits.max_side_px})
        if isinstance(read, UpscaleBody):
            return self._upscale(read, spelt(body, read.names_of_picture))
        assert isinstance(read, DrawingBody)  # noqa: S101 - there is no third kind of body
        if self.needs_model and read.model_id is None:
            raise ModelNotFound("", ())
        asked = self._drawing(read, limits)
        match read:
            case Img2ImgBody():
                return replace(asked, strength=read.strength)
            case ControlNetBody():
                return self._led(asked, read)
            case VideoBody():
                return replace(asked, seconds=read.seconds, samples=1, base64_output=False)
            case _:
                return asked

    def _upscale(self, read: UpscaleBody, field: str) -> Asked:
        return Asked(
            kind=self.kind,
            endpoint=self.name,
            pictures=(Picture("init_image", field, read.url),),
            model_id=_stripped(read.model_id),
            scale=read.scale,
            face_enhance=read.face_enhance,
            webhook=_stripped(read.webhook),
            temp=read.temp,
            base64_output=read.base64,
            output_format=read.output_format,
            output_quality=read.output_quality,
            instant_response=read.instant_response,
            echo={"track_id": read.track_id},
        )

    def _drawing(self, read: DrawingBody, limits: ReadLimits) -> Asked:
        side_px = min(_DEFAULT_SIDE_PX, limits.max_side_px // 8 * 8)
        strengths = strength_per_lora(len(read.lora_model), read.lora_strength)
        sampler = _sampler(read)
        named_karras, named_algorithm = (None, None) if sampler is None else (sampler.use_karras_sigmas, sampler.algorithm_type)
        return Asked(
            kind=self.kind,
            endpoint=self.name,
            prompt=read.prompt,
            negative_prompt=read.negative_prompt,
            model_id=_stripped(read.model_id),
            width=read.width or side_px,
            height=read.height or side_px,
            seed=read.seed,
            samples=read.samples,
            steps=None if read.num_inference_steps is None else min(read.num_inference_steps, self.max_steps),
            default_steps=self.default_steps,
            guidance_scale=read.guidance_scale,
            pictures=_pictures(read),
            lora_models=read.lora_model,
            lora_strengths=strengths,
            embeddings=read.embeddings_model,
            vae=_stripped(read.vae),
            scheduler=None if sampler is None else sampler.scheduler,
            use_karras_sigmas=named_karras if read.use_karras_sigmas is None else read.use_karras_sigmas,
            algorithm_type=named_algorithm if read.algorithm_type is None else read.algorithm_type,
            clip_skip=read.clip_skip,
            enhance_prompt=read.enhance_prompt,
            multi_lingual=read.multi_lingual,
            panorama=read.panorama,
            self_attention=read.self_attention,
            token_merging=read.tomesd,
            highres_fix=read.highres_fix,
            upscale=_TIMES[read.upscale],
            safety_checker=self.default_safety_checker if read.safety_checker is None else read.safety_checker,
            safety_type=read.safety_checker_type,
            webhook=_stripped(read.webhook),
            temp=read.temp,
            base64_output=read.base64,
            output_format=read.output_format,
            output_quality=read.output_quality,
            instant_response=read.instant_response,
            echo=_echo(read, strengths),
        )

    def _led(self, asked: Asked, read: ControlNetBody) -> Asked:
        missing = [] if read.prompt or read.guess_mode else ["prompt"]
        missing += [] if read.init_image or read.control_image else ["init_image"]
        if missing:
            raise InvalidRequest({name: [f"The {name} field is required."] for name in missing})
        auto_hint = self.default_auto_hint if read.auto_hint is None else read.auto_hint
        return replace(
            asked,
            strength=read.strength,
            controlnet_models=read.controlnet_model,
            controlnet_type=_stripped(read.controlnet_type),
            # Without a type there is nothing to make a map with: the image is one.
            auto_hint=auto_hint and read.controlnet_type is not None,
            guess_mode=read.guess_mode,
            conditioning_scales=scale_per_net(len(read.controlnet_model), read.controlnet_conditioning_scale),
        )


def endpoints_of(calls: Iterable[HostedCall]) -> tuple[Endpoint, ...]:
    """A dialect's table of paths: a row for every path of every call, the first of which is the documented one."""
    return tuple(
        Endpoint(path, call.name, call.body, call.parse, _SUMMARIES[call.kind], sample=call.sample, is_alias=path != call.paths[0])
        for call in calls
        for path in call.paths
    )


def _pictures(read: DrawingBody) -> tuple[Picture, ...]:
    if not isinstance(read, Img2ImgBody | ControlNetBody):
        return ()
    mask_image = read.mask_image if isinstance(read, InpaintBody | ControlNetBody) else None
    control_image = read.control_image if isinstance(read, ControlNetBody) else None
    sources = zip(_ROLES, (read.init_image, mask_image, control_image), strict=True)
    return tuple(Picture(role, role, source) for role, source in sources if source is not None)


def _sampler(read: DrawingBody) -> NamedSampler | None:
    return read.scheduler or read.sampling_method


def _echo(read: DrawingBody, strengths: tuple[float, ...]) -> dict[str, JsonValue]:
    """What answers repeat as it was asked and the job itself doesn't know."""
    sampler = _sampler(read)
    asked: dict[str, JsonValue] = {
        # The job knows the class only; a name of A1111's is told as such.
        "scheduler": None if sampler is None or sampler.told == sampler.scheduler.value else sampler.told,
        "safety_checker": yes_no(read.safety_checker),
        "safety_checker_type": read.safety_checker_type,
        "upscale": read.upscale,
        "instant_response": yes_no(read.instant_response),
        "embeddings": ",".join(read.embeddings_model) or None,
        "lora": ",".join(read.lora_model) or None,
        "lora_strength": _one_or_list(strengths),
        "vae": _stripped(read.vae),
    }
    return {"track_id": read.track_id} | {name: value for name, value in asked.items() if value is not None}


def _one_or_list(strengths: tuple[float, ...]) -> JsonValue:
    if len(set(strengths)) > 1:
        return ",".join(f"{strength:g}" for strength in strengths)
    return strengths[0] if strengths else None


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()
