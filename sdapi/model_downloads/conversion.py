"""Pickles made into safetensors in a process of their own, so that this one never reads a byte of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = "sdapi.pipelines.loading.conversion_process"
_TIMEOUT_S = 3600.0
_MAX_SENTENCE_CHARS = 1000


class ConversionFailed(Exception):
    """It can't be converted; the text is a sentence for the operator."""


def convert(source: Path, target: Path, *, timeout_s: float = _TIMEOUT_S) -> None:
    """Write the tensors in `source` as safetensors to `target`, which appears whole or not at all. Raises ConversionFailed and OSError."""
    if not source.is_file():
        raise ConversionFailed(f"{source} is not a file.")
    # The process needs no secrets of ours.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SDAPI_")} | {"OMP_NUM_THREADS": "1"}
    ours = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([ours, *filter(None, [environment.get("PYTHONPATH")])])
    # -P: what lies in the current folder, maybe beside a pickle somebody sent, is imported by no name.
    command = [sys.executable, "-P", "-m", _PROGRAM, str(source.absolute()), str(target.absolute())]
    try:
        ended = subprocess.run(  # noqa: S603 - our own program; the paths are arguments, no shell reads them
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        _clean_up(target)
        raise ConversionFailed(f"{source.name} was not converted within {timeout_s:.0f} seconds.") from late
    if ended.returncode != 0:
        _clean_up(target)
        told = ended.stderr.decode(errors="replace").strip()[-_MAX_SENTENCE_CHARS:]
        raise ConversionFailed(told if ended.returncode > 0 and told else f"{source.name} was not converted: the process was killed.")


def _clean_up(target: Path) -> None:
    """A process that was killed leaves what it was writing."""
    target.with_name(f".{target.name}.part").unlink(missing_ok=True)
