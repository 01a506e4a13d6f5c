"""What a process may take of memory: the machine's, or less where a control group says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdapi.machine import memory_limit_bytes

ALL_OF_IT = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limits(folder: Path, cgroup: str, files: dict[str, str]) -> int | None:
    (folder / "cgroup").write_text(cgroup)
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    return memory_limit_bytes(cgroup=folder / "cgroup", groups=folder / "groups")


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1048576\n"}, 2**20),
        ("0::/\n", {"memory.max": "max\n"}, ALL_OF_IT),
        ("0::/\n", {"memory.max": f"{ALL_OF_IT * 2}\n"}, ALL_OF_IT),
        ("0::/a.slice/b.service\n", {"a.slice/memory.max": "4096\n", "a.slice/b.service/memory.max": "8192\n"}, 4096),
        ("0::/outside/the/container\n", {"memory.max": "4096\n"}, 4096),
        ("4:cpu:/x\n3:memory:/docker/1\n", {"memory/docker/1/memory.limit_in_bytes": "4096\n", "x/memory.max": "1\n"}, 4096),
        ("3:memory:/docker/1\n", {"memory/memory.limit_in_bytes": "4096\n"}, 4096),
    ],
)
def test_the_narrowest_limit_counts(tmp_path: Path, cgroup: str, files: dict[str, str], expected: int) -> None:
    assert limits(tmp_path, cgroup, files) == expected


def test_without_control_groups_it_is_the_machines_memory(tmp_path: Path) -> None:
    assert memory_limit_bytes(cgroup=tmp_path / "none", groups=tmp_path) == ALL_OF_IT
