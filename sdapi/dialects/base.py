"""What all dialects share: the table of paths, the request as it was asked, the answer as it is sent, and refusals in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sdapi.domain.errors import InvalidRequest, SdapiError
from sdapi.domain.generation import AlgorithmType, SchedulerName
from sdapi.domain.job import Job, JobStatus
from sdapi.domain.picture_formats import DEFAULT_FORMAT, DEFAULT_QUALITY, PictureFormat
from sdapi.domain.safety import SafetyType
from sdapi.domain.sent_file import SentFile

from .wire_types import REFUSED, WholeNumber, WireBody

MAX_JOB_ID = 2**31 - 1
"""Clients keep ids in 32 signed bits."""

Kind = Literal["txt2img", "img2img", "inpaint", "controlnet", "text2video", "upscale"]
PictureRole = Literal["init_image", "mask_image", "control_image"]

_WHOLE_NUMBER: TypeAdapter[int] = TypeAdapter(WholeNumber)


@dataclass(frozen=True)
class Picture:
    """An input picture as the client named it."""

    role: PictureRole
    field: str
    """The client's own name of the field, for refusals."""
    source: str | SentFile
    """A link, a data: URL, base64, or a file."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request of any dialect, checked and with its defaults, before its model, seed and pictures are looked up."""

    kind: Kind
    endpoint: str = ""
    """Name of the dialect's endpoint; answers look different by it."""
    prompt: str = ""
    """As the client wrote it; trigger words are added later."""
    negative_prompt: str = ""
    model_id: str | None = None
    """Id or alias as the client wrote it; None asks for the server's default model. For an upscale, the upscaler's."""
    width: int = 512
    height: int = 512
    seed: int | None = None
    """None asks for a random one."""
    samples: int = 1
    steps: int | None = None
    """None asks for the model's own default where it has one, else `default_steps`."""
    default_steps: int = 30
    """The dialect's."""
    guidance_scale: float | None = None
    """None asks for the model's own default where it has one, else 7.5."""
    strength: float = 0.8
    pictures: tuple[Picture, ...] = ()
    """Those the kind needs are there, each role at most once."""
    lora_models: tuple[str, ...] = ()
    lora_strengths: tuple[float, ...] = ()
    """As many as there are LoRAs."""
    embeddings: tuple[str, ...] = ()
    vae: str | None = None
    scheduler: SchedulerName | None = None
    use_karras_sigmas: bool | None = None
    algorithm_type: AlgorithmType | None = None
    clip_skip: int = 1
    enhance_prompt: bool = False
    multi_lingual: bool | None = False
    """None: where the server can."""
    panorama: bool = False
    self_attention: bool = False
    token_merging: bool | None = None
    """None leaves it to the operator."""
    highres_fix: bool = False
    upscale: int = 0
    controlnet_models: tuple[str, ...] = ()
    controlnet_type: str | None = None
    auto_hint: bool = True
    guess_mode: bool = False
    conditioning_scales: tuple[float, ...] = (1.0,)
    """One, or as many as there are control nets."""
    seconds: float = 3.0
    scale: float = 2.0
    face_enhance: bool = False
    safety_checker: bool = False
    """Whether a safety checker is to look at the pictures; the operator may decide otherwise."""
    safety_type: SafetyType | None = None
    """None leaves it to the server how unsafe ones are covered."""
    webhook: str | None = None
    temp: bool = False
    base64_output: bool = False
    """Whether the pictures are to be text files of base64."""
    output_format: PictureFormat = DEFAULT_FORMAT
    output_quality: int = DEFAULT_QUALITY
    """1 to 100; means nothing to PNG."""
    instant_response: bool = False
    echo: Mapping[str, JsonValue] = field(default_factory=dict)
    """What else the dialect wants to repeat in its answers; `track_id` in it goes to the webhook, in the type it came in."""


@dataclass(frozen=True)
class ReadLimits:
    """The operator's limits on what requests may ask for."""

    max_side_px: int = 1024


@dataclass(frozen=True)
class Endpoint:
    """One row of a dialect's table of paths: a call that makes a job."""

    path: str
    name: str
    """What the job remembers of it (`Asked.endpoint`)."""
    body: type[WireBody]
    parse: Callable[[Mapping[str, object], ReadLimits], Asked]
    """Raises InvalidRequest with the client's own field names."""
    summary: str
    sample: str = ""
    """Stem of the documented request and answer among the dialect's samples."""
    is_alias: bool = False
    """Whether it is another address of a call that the API's description has already."""


@dataclass(frozen=True)
class FetchPath:
    """One row of a dialect's table of paths: a look-up. `{id}` in the path stands for the job's id."""

    path: str


@dataclass(frozen=True)
class Rendered:
    """An answer: the body is what a webhook would carry too, status and headers matter to HTTP only."""

    status: int
    """What the answer means in HTTP's own words; dialects that always said 200 are told so later."""
    body: dict[str, JsonValue]
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """How requests are read and how jobs and errors are told in one API's words. A module with these names is one."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant of the module
        """What jobs remember of it; at most 16 characters, never changed."""

    @property
    def PREFIXES(self) -> Sequence[str]:  # noqa: N802
        """Where its paths begin, without a slash at the end."""

    @property
    def ERRORS_ARE_200(self) -> bool:  # noqa: N802
        """Whether the hosted service said 200 to everything, and `status` told the rest."""

    @property
    def ENDPOINTS(self) -> Sequence[Endpoint]:  # noqa: N802
        """The calls that make jobs."""

    @property
    def FETCH_PATHS(self) -> Sequence[FetchPath]:  # noqa: N802
        """The look-ups."""

    def parse_fetch(self, body: Mapping[str, object]) -> int | None:
        """The id that is asked for; None when it can't be one, which gets the answer of an unknown id."""

    def output_names(self, asked: Asked, token: str, now: datetime) -> tuple[str, ...]:
        """Names in storage of the pictures to come; `token` is a UUID that they share."""

    def render_job(self, job: Job, *, eta_s: float) -> Rendered:
        """The answer to the request that made the job; `eta_s` matters only while it isn't final."""

    def render_fetch(self, job: Job, *, eta_s: float) -> Rendered:
        """The answer to a later look-up."""

    def render_error(self, error: SdapiError) -> Rendered:
        """The answer to a request that was refused."""

    def render_message(self, status: int, message: str, *, request_id: str | None = None) -> Rendered:
        """An error that is no domain error: no such path, or a crash (then with the id under which it was logged)."""


def job_id_of(value: object) -> int | None:
    """The job id spelt as 123, "123" or 123.0; None for anything that can't be one."""
    try:
        number = _WHOLE_NUMBER.validate_python(value)
    except ValidationError:
        return None
    return number if 1 <= number <= MAX_JOB_ID else None


def webhook_body(dialect: Dialect, job: Job) -> dict[str, JsonValue]:
    """What a webhook is told of a final job: the keys the hosted service's webhooks had, with the values of the dialect's own answer."""
    rendered = dialect.render_job(job, eta_s=0).body
    track_id = job.echo.get("track_id")
    if job.status is JobStatus.SUCCEEDED:
        told: dict[str, JsonValue] = {"status": "success", "id": job.id, "output": rendered["output"]}
        told |= {"generationTime": rendered["generationTime"], "track_id": track_id, **checked(job)}
        return told | ({"meta": rendered["meta"]} if "meta" in rendered else {})
    # Unlike the answer, whose id is documented as empty: a receiver has nothing else to know the job by.
    return {
        "status": "failed",
        "id": job.id,
        "message": rendered["message"],
        "messege": rendered["message"],
        "error": rendered.get("error"),
        "output": [],
        "track_id": track_id,
    }


def checked(job: Job) -> dict[str, JsonValue]:
    """What answers say once the pictures were checked; nothing where nobody has looked."""
    return {} if job.is_unsafe is None else {"nsfw_content_detected": job.is_unsafe}


def file_prefix(job: Job) -> str:
    """The UUID that the names of the job's pictures share."""
    return str(job.echo.get("file_prefix", ""))


def output_links(job: Job) -> list[JsonValue]:
    """Where the finished pictures are: directly where the storage has a public address, else on this server."""
    base = job.files_url or f"{job.public_url}/images"
    return [f"{base}/{name}" for name in job.output_names]


def own_links(job: Job) -> list[JsonValue]:
    """The pictures' addresses on this server, which work before they are drawn, too."""
    return [own_link(job, name) for name in job.output_names]


def own_link(job: Job, name: str) -> str:
    """A stored picture's address on this server."""
    return f"{job.public_url}/images/{name}"


@contextmanager
def rejecting() -> Iterator[None]:
    """Turn a wire body's ValidationError into InvalidRequest: the client's own field names, sentences for people."""
    try:
        yield
    except ValidationError as refusal:
        problems: dict[str, list[str]] = {}
        for error in refusal.errors(include_url=False, include_input=False):
            name = str(error["loc"][0]) if error["loc"] else "body"
            problems.setdefault(name, []).append(_sentence(name, error))
        raise InvalidRequest(problems) from refusal


def strength_per_lora(loras: int, strengths: tuple[float, ...]) -> tuple[float, ...]:
    """One strength for each of so many LoRAs, from none, one for all, or one each. Raises InvalidRequest."""
    strengths = strengths or (1.0,)
    if len(strengths) == 1 or not loras:
        return strengths[:1] * loras
    if len(strengths) != loras:
        raise InvalidRequest.of("lora_strength", f"The lora_strength must be one number, or {loras}: one for each lora_model.")
    return strengths


def scale_per_net(nets: int, scales: tuple[float, ...]) -> tuple[float, ...]:
    """The scales of so many control nets, when they are one for all or one each. Raises InvalidRequest."""
    if len(scales) not in (1, nets):
        sentence = f"The controlnet_conditioning_scale must be one number, or {nets}: one for each controlnet_model."
        raise InvalidRequest.of("controlnet_conditioning_scale", sentence)
    return scales


def spelt(body: Mapping[str, object], names: Sequence[str]) -> str:
    """Which of a field's names came with a value; the first where none did."""
    return next((name for name in names if body.get(name)), names[0])


def _sentence(name: str, error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"The {name} field is required."
    if error["type"] == REFUSED:
        return f"The {name} {error['msg']}."
    return f"The {name} is not valid."
