"""A pickle made into safetensors, with limits of its own: `python -m sdapi.pipelines.loading.conversion_process SOURCE TARGET`.

The restricted unpickler runs nothing; the limits are for what it might be made to allocate, write or compute.
"""

from __future__ import annotations

import sys
from pathlib import Path

_MEMORY_PER_BYTE = 4
"""The file as it is read, each tensor once more as it is cloned, and what is written, with room to spare."""
_MEMORY_BYTES = 4 * 2**30
_FILE_PER_BYTE = 2
_FILE_BYTES = 64 * 2**20
_CPU_S = 3600
_OPEN_FILES = 256

REFUSED, BROKEN = 3, 4
"""Exit codes; the sentence is on standard error."""


def main(source: Path, target: Path) -> int:
    """Convert under limits; the exit code."""
    _limit(source.stat().st_size)
    # Not before the limits: importing torch is part of what they are for.
    from sdapi.catalog import Refused
    from sdapi.pipelines.loading.pickle_conversion import convert_to_safetensors

    try:
        convert_to_safetensors(source, target)
    except Refused as refusal:
        sys.stderr.write(str(refusal))
        return REFUSED
    except Exception as failure:  # noqa: BLE001
        # Whatever a hostile file brings torch to raise, the parent must be told in a sentence.
        is_too_large = isinstance(failure, MemoryError) or "allocate memory" in str(failure)
        told = (
            "its tensors take far more memory than its size allows" if is_too_large else f"{type(failure).__name__}: {str(failure)[:200]}"
        )
        sys.stderr.write(f"{source.name} could not be converted: {told}.")
        return BROKEN
    return 0


def _limit(source_bytes: int) -> None:
    try:
        import resource
    except ImportError:
        return  # Windows has none; there the time limit of the parent remains
    for which, most in (
        (resource.RLIMIT_DATA, _MEMORY_PER_BYTE * source_bytes + _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, _FILE_PER_BYTE * source_bytes + _FILE_BYTES),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        fitting = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (fitting, fitting))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
