"""What this process runs on, as far as an administrator wants to know without logging in."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class MachineLook:
    """How much there is of what, at one moment; None for what this system does not tell."""

    version: str
    """Of this program."""
    device: str
    """Where pictures are drawn, as the settings have it."""
    started_at: datetime
    process_memory_bytes: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    models_disk_free_bytes: int | None
    data_disk_free_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """This process, its settings and its disks."""

    device: str
    models_dir: Path
    data_dir: Path
    started_at: datetime
    """When the services were opened."""

    def look(self) -> MachineLook:
        """Asks the system, so call it in a thread where that matters."""
        return MachineLook(
            version=version("sdapi"),
            device=self.device,
            started_at=self.started_at,
            process_memory_bytes=_process_memory_bytes(),
            memory_bytes=_pages_bytes("SC_PHYS_PAGES"),
            memory_available_bytes=_available_bytes(),
            models_disk_free_bytes=_free_bytes(self.models_dir),
            data_disk_free_bytes=_free_bytes(self.data_dir),
        )


def _process_memory_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _available_bytes() -> int | None:
    """What could be had without swapping; caches of files count, which free pages alone would leave out."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _pages_bytes("SC_AVPHYS_PAGES")
    told = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if told is None else int(told) * 1024


def _pages_bytes(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _free_bytes(folder: Path) -> int | None:
    """Of the disk the folder is on, or will be made on."""
    for place in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
