"""Keeps on disk what was learnt of a device, so that a server that starts again need not learn it anew."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdapi.pipelines.scheduling.profile import StepProfile

_log = logging.getLogger(__name__)

_EVERY_S: Final = 30.0
_MOST_BYTES: Final = 2**22

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Samples = Annotated[int, Field(ge=1)]


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    made_with: dict[str, str]
    """Device, number format, threads, versions: figures of others say nothing here."""
    seconds: dict[str, dict[Samples, Seconds]]
    """By shape and samples."""


class ProfileFile:
    """One file for one device. Called from the drawing thread; writes on a thread of its own."""

    def __init__(self, path: Path, made_with: Mapping[str, str]) -> None:
        self._path = path
        self._made_with = dict(made_with)
        self._kept_at_s = time.monotonic()
        self._kept: dict[str, dict[int, float]] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sdapi-profile")
        self._writing: Future[None] | None = None

    def read(self) -> StepProfile:
        """What was kept; an empty profile where there is no file, or one that is broken or of another device."""
        try:
            with self._path.open("rb") as file:
                content = _Content.model_validate_json(file.read(_MOST_BYTES))
        except FileNotFoundError:
            return StepProfile()
        except (OSError, ValidationError) as error:
            _log.warning("the profile of the device can't be read and is made anew", extra={"path": str(self._path), "error": repr(error)})
            return StepProfile()
        if content.made_with != self._made_with:
            _log.info("the profile is of another device and is made anew", extra={"path": str(self._path)})
            return StepProfile()
        self._kept = content.seconds
        return StepProfile(content.seconds)

    def keep(self, profile: StepProfile) -> None:
        """Write it on the other thread, every half minute at most; otherwise do nothing."""
        now_s = time.monotonic()
        if now_s - self._kept_at_s < _EVERY_S or (self._writing is not None and not self._writing.done()):
            return
        self._kept_at_s = now_s
        if (known := profile.known) != self._kept:
            self._kept = known
            self._writing = self._writer.submit(self._write, known)

    def close(self, profile: StepProfile) -> None:
        """Write what has not been written."""
        self._writer.shutdown(wait=True)
        if (known := profile.known) != self._kept:
            self._write(known)

    def _write(self, known: Mapping[str, Mapping[int, float]]) -> None:
        told = {shape: {samples: float(f"{seconds:.4g}") for samples, seconds in counts.items()} for shape, counts in known.items()}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"made_with": self._made_with, "seconds": told}, indent=1), encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            # Nothing is lost but what can be learnt again.
            _log.warning("the profile of the device can't be kept", extra={"path": str(self._path), "error": repr(error)})
