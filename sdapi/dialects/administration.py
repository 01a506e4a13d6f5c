"""The administration calls of the hosted services, and the small ones around pictures and models: fields read, answers told.

They are alike wherever they are called, so this is no dialect of its own; refusals are told by the dialect of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

from sdapi.catalog import Asset, AssetKind, Checkpoint
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import SchedulerName
from sdapi.domain.sent_file import SentFile

from .answers import error_body
from .base import Rendered, job_id_of
from .wire_types import REFUSED, Scalar, SentPicture, Text, WireBody, YesNo

ModelKind = Literal["checkpoint"] | AssetKind

SCHEDULERS: Sequence[SchedulerName] = (
    SchedulerName.DDPM,
    SchedulerName.DDIM,
    SchedulerName.PNDM,
    SchedulerName.LMS,
    SchedulerName.EULER,
    SchedulerName.EULER_ANCESTRAL,
    SchedulerName.DPM_MULTISTEP,
    SchedulerName.HEUN,
    SchedulerName.KDPM2,
    SchedulerName.DPM_SINGLESTEP,
    SchedulerName.KDPM2_ANCESTRAL,
    SchedulerName.UNIPC,
    SchedulerName.DDIM_INVERSE,
    SchedulerName.DEIS,
    SchedulerName.IPNDM,
    SchedulerName.KARRAS_VE,
    SchedulerName.SCORE_SDE_VE,
)
"""In the documented order."""

MAX_CROPPED_BYTES = 5 * 2**20
"""The documented limit of base64_crop."""

_KINDS: Mapping[str, ModelKind] = {
    "huggingface": "checkpoint",
    "api_trained": "checkpoint",
    "custom_ckpt": "checkpoint",
    "stable_diffusion": "checkpoint",
    "stable_diffusion_xl": "checkpoint",
    "lora": "lora",
    "embeddings": "embedding",
    "controlnet": "controlnet",
    "vae": "vae",
    "upscaler": "upscaler",
}
_NOT_GIVEN: Mapping[str, frozenset[str]] = {"webhook": frozenset({"0"})}
_KEPT_PICTURE = "data: URL, base64, or a file of a multipart form"
_FOLDERS_OF_PICTURES = ("generations", "sd", "temp")


def _kind(value: object) -> ModelKind:
    kind = _KINDS.get(value.strip().lower()) if isinstance(value, str) else None
    if kind is None:
        raise PydanticCustomError(REFUSED, "must be one of {names}", {"names": ", ".join(_KINDS)})
    return kind


def _format(value: object) -> str:
    name = value.strip().lower().removeprefix("image/").removeprefix(".") if isinstance(value, str) else ""
    if name not in ("png", "jpeg", "jpg"):
        raise PydanticCustomError(REFUSED, "must be png, jpeg or jpg")
    return "png" if name == "png" else "jpeg"


Kind = Annotated[ModelKind, BeforeValidator(_kind)]
"""A model_type or model_category as the hosted services named them."""
ImageFormat = Annotated[Literal["png", "jpeg"], BeforeValidator(_format)]


# -- what is asked ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AskedModel:
    """A model a client wants to have here."""

    kind: ModelKind
    model_id: str
    url: str
    revision: str = ""
    sha256: str = ""
    webhook: str | None = None


class LoadModelBody(WireBody):
    """Body of load_model and load_model_v2. What else they documented (from_safetensors, upcast_attention) is found out from the files."""

    absent_words: ClassVar[Mapping[str, frozenset[str]]] = _NOT_GIVEN

    url: Text
    model_id: Text
    kind: Kind = Field(default="checkpoint", validation_alias=AliasChoices("model_type", "model_category"))
    revision: Text = ""
    sha256: Text = ""
    webhook: Text | None = None

    def asked(self) -> AskedModel:
        """The model that is meant."""
        return AskedModel(
            kind=self.kind,
            model_id=self.model_id.strip(),
            url=self.url.strip(),
            revision=self.revision.strip(),
            sha256=self.sha256,
            webhook=self.webhook,
        )


class LoadVaeBody(WireBody):
    """Body of load_vae."""

    absent_words: ClassVar[Mapping[str, frozenset[str]]] = _NOT_GIVEN

    vae_id: Text
    vae_url: Text
    revision: Text = ""
    sha256: Text = ""
    webhook: Text | None = None

    def asked(self) -> AskedModel:
        """The VAE that is meant."""
        return AskedModel(
            kind="vae",
            model_id=self.vae_id.strip(),
            url=self.vae_url.strip(),
            revision=self.revision.strip(),
            sha256=self.sha256,
            webhook=self.webhook,
        )


class ModelBody(WireBody):
    """Body of verify_model and delete_model. Without a kind it is about every model of that id."""

    model_id: Text
    kind: Kind | None = Field(default=None, validation_alias=AliasChoices("model_type", "model_category"))


class S3Body(WireBody):
    """Body of update_s3. Which of its fields are needed is told by the storage; `deploy_type` makes no difference here."""

    public_url: Text | None = None
    region_name: Text | None = None
    endpoint_url: Text | None = None
    aws_access_key_id: Text | None = None
    aws_secret_access_key: Text | None = None
    image_directory: Text | None = None
    bucket: Text | None = None


class UploadImageBody(WireBody):
    """Body of upload_image."""

    base64_image: SentPicture = Field(description=_KEPT_PICTURE)
    image_type: ImageFormat = "png"


class CropBody(WireBody):
    """Body of base64_crop."""

    image: SentPicture = Field(description=_KEPT_PICTURE)
    crop: YesNo = False


class DeleteImageBody(WireBody):
    """Body of delete_image: a request's id, or in the older form a picture's file name or address."""

    request_id: Scalar | None = None
    image: Text | None = None

    def asked(self) -> int | tuple[str, ...] | None:
        """An id, or the names in storage that may be meant; None for what can't be either. Raises InvalidRequest when nothing is named."""
        if self.request_id is not None:
            return job_id_of(self.request_id)
        if self.image is None:
            raise InvalidRequest.of("request_id", "The request_id field is required.")
        return names_meant(self.image)


class CheckImageBody(WireBody):
    """Body of nsfw_image_check."""

    init_image: SentPicture = Field(description=f"http(s) URL, {_KEPT_PICTURE}")


def names_meant(image: str) -> tuple[str, ...]:
    """The names in storage that a picture's address, path or bare file name may mean."""
    try:
        path = unquote(urlsplit(image.strip()).path)
    except ValueError:
        return ()
    parts = [part for part in path.split("/") if part]
    # Only what one of our own pictures can be called is ever looked up.
    if not parts or not re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]{0,127}", parts[-1]):
        return ()
    folders = [parts[-2]] if len(parts) > 1 else _FOLDERS_OF_PICTURES
    return tuple(f"{folder}/{parts[-1]}" for folder in folders if folder in _FOLDERS_OF_PICTURES)


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Have a refusal name fields as this call spells them."""
    try:
        yield
    except InvalidRequest as refusal:
        raise InvalidRequest(
            {names.get(field, field): [_renamed(sentence, names) for sentence in told] for field, told in refusal.problems.items()}
        ) from refusal


def _renamed(sentence: str, names: Mapping[str, str]) -> str:
    for name, spelt in names.items():
        sentence = re.sub(rf"\bThe {name}\b", f"The {spelt}", sentence)
    return sentence


# -- what is told ----------------------------------------------------------------------------------------------------------------------


class DownloadLook(Protocol):
    """As much of a model's download as is told."""

    @property
    def kind(self) -> ModelKind:
        """What it will be."""

    @property
    def model_id(self) -> str:
        """What it will be called."""

    @property
    def status(self) -> str:
        """queued, running, installed or failed."""

    @property
    def bytes_done(self) -> int:
        """What has come."""

    @property
    def bytes_total(self) -> int | None:
        """None until the source has told."""

    @property
    def sha256(self) -> str | None:
        """Once installed."""

    @property
    def error(self) -> str | None:
        """Why it failed, in a sentence for the client."""


@dataclass(frozen=True, kw_only=True)
class SystemLook:
    """What system_details tells besides the documented."""

    model_count: int
    queued: int
    running: int
    queue_seconds: float
    version: str
    device: str
    started_at: datetime
    process_memory_bytes: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    models_disk_free_bytes: int | None
    data_disk_free_bytes: int | None
    downloads: Sequence[DownloadLook] = ()
    update: str | None = None
    """What the last update came to, in a sentence, or None."""
    problem: str | None = None
    """Why the server does not work as it should, or None."""


def done(message: str, **extra: JsonValue) -> dict[str, JsonValue]:
    """Something was done as asked."""
    return {"status": "success", "message": message, **extra}


def done_both(message: str, **extra: JsonValue) -> dict[str, JsonValue]:
    """The same where the hosted services misspelt the key."""
    return {"status": "success", "messege": message, "message": message, **extra}


def picture_checked(source: str | SentFile, *, is_unsafe: bool) -> dict[str, JsonValue]:
    """`source` is told again where it is an address; a whole picture, in base64 or as a file, is not."""
    address = source if isinstance(source, str) and source.lower().startswith(("http://", "https://")) else ""
    return {"images": address, "has_nsfw_concept": [is_unsafe]}


def system_details(look: SystemLook) -> dict[str, JsonValue]:
    """The documented keys first."""
    return {
        "model_count": look.model_count,
        "queue_time": _whole_seconds(look.queue_seconds),
        "status": "ok",
        "queue_num": look.queued,
        "running": look.running,
        "version": look.version,
        "device": look.device,
        "started_at": look.started_at.isoformat(),
        "process_memory_bytes": look.process_memory_bytes,
        "memory_bytes": look.memory_bytes,
        "memory_available_bytes": look.memory_available_bytes,
        "models_disk_free_bytes": look.models_disk_free_bytes,
        "data_disk_free_bytes": look.data_disk_free_bytes,
        "downloads": [_download(download) for download in look.downloads],
        "update": look.update,
        "problem": look.problem,
    }


def system_load(*, queued: int, queue_seconds: float) -> dict[str, JsonValue]:
    """How much waits, and for how long."""
    return {"queue_num": queued, "queue_time": _whole_seconds(queue_seconds), "status": "ok"}


def schedulers_list() -> dict[str, JsonValue]:
    """The documented names; this answer never had a status."""
    return {"schedulers": [name.value for name in SCHEDULERS]}


def all_models(checkpoints: Iterable[Checkpoint], assets: Mapping[AssetKind, Iterable[Asset]]) -> dict[str, JsonValue]:
    """Everything that is installed; clients count each list without asking whether it is there."""
    return {
        "models": [_listed(one, {"title": one.title, "model_type": one.family}) for one in checkpoints],
        "lora_models": [_listed(one) for one in assets.get("lora", ())],
        "embeddings_models": [_listed(one) for one in assets.get("embedding", ())],
        "controlnet_models": [_listed(one) for one in assets.get("controlnet", ())],
        "vae_models": [_listed(one) for one in assets.get("vae", ())],
        "upscaler_models": [_listed(one) for one in assets.get("upscaler", ())],
        "status": "success",
    }


def model_list(checkpoints: Iterable[Checkpoint]) -> list[JsonValue]:
    """A bare array, as the hosted service sent it."""
    return [
        {
            "model_id": one.id,
            "status": "model_ready",
            "created_at": None,
            "instance_prompt": one.trigger or None,
            "model_name": one.title or one.id,
            "description": one.description or None,
            "screenshots": None,
        }
        for one in checkpoints
    ]


def verified(*, exists: bool, download: DownloadLook | None) -> Rendered:
    """Whether a model is there; and of one that is not, what became of its download."""
    if exists:
        return Rendered(200, done("Model exists on server"))
    coming = {} if download is None else {"download": _download(download)}
    return Rendered(404, error_body("Model does not exist on server", **coming))


def download_webhook_body(download: DownloadLook) -> dict[str, JsonValue]:
    """What a webhook is told of a model's download that has ended."""
    named: dict[str, JsonValue] = {"model_id": download.model_id, "model_type": download.kind}
    if download.status == "installed":
        loaded = "VAE loaded" if download.kind == "vae" else "model loaded"
        return {"status": "success", **named, "message": loaded, "sha256": download.sha256}
    reason = download.error or "The model could not be loaded."
    return {"status": "failed", **named, "message": reason, "messege": reason}


def _download(download: DownloadLook) -> dict[str, JsonValue]:
    total = download.bytes_total
    return {
        "model_id": download.model_id,
        "model_type": download.kind,
        "state": download.status,
        "bytes_done": download.bytes_done,
        "bytes_total": total,
        "progress": round(min(1.0, download.bytes_done / total), 4) if total else None,
        "error": download.error,
    }


def _listed(model: Checkpoint | Asset, extra: Mapping[str, JsonValue] | None = None) -> dict[str, JsonValue]:
    # "load_data" is the hosted API's spelling of the date it was loaded at.
    return {"load_data": _moment(model.modified_at), "model_id": model.id, **(extra or {})}


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%m/%d/%Y %H:%M:%S")


def _whole_seconds(seconds: float) -> int:
    return max(0, round(seconds))
