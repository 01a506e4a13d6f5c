"""What this process runs on, as far as an administrator wants to know without logging in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath


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


def memory_limit_bytes(*, cgroup: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What this process may take at most: the machine's memory, or less where its container or service has a limit. None: not known.

    `cgroup` says which control group it is in, `groups` is where Linux shows them.
    """
    limits = [limit for file in _limit_files(cgroup, groups) if (limit := _limit(file)) is not None]
    if (there := _pages_bytes("SC_PHYS_PAGES")) is not None:
        limits.append(there)
    return min(limits, default=None)


def _limit_files(cgroup: Path, groups: Path) -> Iterator[Path]:
    """Of the group and of all it is in: any of them may be the narrowest. Version 1 has a tree for memory alone."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        tree, file = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
        # In a container the name may be the one outside, of which nothing is seen; what limits it is at the top then.
        group = PurePosixPath("/", name).relative_to("/")
        yield from (tree / one / file for one in (group, *group.parents))


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # "max": none of its own


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
