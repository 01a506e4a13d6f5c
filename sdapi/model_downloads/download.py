"""A download: one model on its way into the models folder, from being asked for to being installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sdapi.catalog.inventory import ModelKind

DownloadStatus = Literal["queued", "running", "installed", "failed"]

FP16 = "fp16"
FULL_PRECISION = ("", "fp32")


@dataclass(frozen=True)
class NewDownload:
    """What a client asks to have fetched."""

    kind: ModelKind
    model_id: str
    """What it will be called; its file or folder gets this name."""
    url: str
    """A URL of a file, `org/name` of the hub (with `@revision`, `/file.safetensors`, or both), or a page of the hub."""
    revision: str = ""
    """Of a hub repository: `fp16` prefers its smaller files, another word is a branch, tag or commit."""
    sha256: str = ""
    """Expected of a single file, in hex; empty: not known."""
    replace: bool = False
    """Whether a model of this id may be there already; it is replaced once the new one is whole."""


@dataclass(frozen=True)
class Download:
    """A recorded download as it stood when it was read."""

    id: int
    client_id: int
    new: NewDownload
    status: DownloadStatus
    attempts: int
    """Times it was begun by a process."""
    bytes_done: int
    bytes_total: int | None
    """None until the source has told."""
    sha256: str | None
    """Once installed: of the file. Of a folder: of its `sha256sum` lines (`<hash>  <path>` and a line feed), in the order of paths."""
    error: str | None
    """Why it failed, in a sentence for the client."""
    webhook_url: str | None
    created_at: datetime
    finished_at: datetime | None

    @property
    def kind(self) -> ModelKind:
        """What it will be."""
        return self.new.kind

    @property
    def model_id(self) -> str:
        """What it will be called."""
        return self.new.model_id

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ("installed", "failed")


@dataclass
class Progress:
    """How far the download at hand is, for whoever writes it down."""

    done_bytes: int = 0
    total_bytes: int | None = None


class DownloadFailed(Exception):
    """It can't be had; the text is a sentence for the client. What has come stays for another try where it is `resumable`."""

    def __init__(self, sentence: str, *, resumable: bool = False) -> None:
        self.resumable = resumable
        super().__init__(sentence)


def options_of(new: NewDownload) -> Mapping[str, str | bool]:
    """What the row keeps in its `options`."""
    return {"revision": new.revision, "sha256": new.sha256, "replace": new.replace}
