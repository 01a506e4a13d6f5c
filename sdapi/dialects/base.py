"""What all dialects share: the request as it was asked, the answer as it is sent, and refusals in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sdapi.domain.errors import InvalidRequest, SdapiError
from sdapi.domain.generation import SchedulerName
from sdapi.domain.job import Job

from .wire_types import REFUSED, WholeNumber

MAX_JOB_ID = 2**31 - 1
"""Clients keep ids in 32 signed bits."""

_WHOLE_NUMBER: TypeAdapter[int] = TypeAdapter(WholeNumber)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request of any dialect, checked and with its defaults, before its model, seed and pictures are looked up."""

    kind: Literal["txt2img", "img2img"]
    prompt: str
    """As the client wrote it; trigger words are added later."""
    negative_prompt: str = ""
    model_id: str | None = None
    """Id or alias as the client wrote it; None asks for the server's default model."""
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
    init_image: str | None = None
    """Where the picture to start from is (a link, a data: URL, base64); never None for img2img."""
    lora_models: tuple[str, ...] = ()
    lora_strengths: tuple[float, ...] = ()
    """As many as there are LoRAs."""
    scheduler: SchedulerName | None = None
    clip_skip: int = 1


@dataclass(frozen=True)
class Rendered:
    """An answer: the body is what a webhook would carry too, status and headers matter to HTTP only."""

    status: int
    body: dict[str, JsonValue]
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """How jobs and errors are told in one API's words. A module with these functions is one."""

    def output_name(self, index: int, token: str) -> str:
        """Name in storage of the job's picture `index`; `token` is a UUID that the job's pictures share."""

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


def _sentence(name: str, error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"The {name} field is required."
    if error["type"] == REFUSED:
        return f"The {name} {error['msg']}."
    return f"The {name} is not valid."
