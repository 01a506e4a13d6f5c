from __future__ import annotations

import asyncio
import os
import resource
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdapi.domain.errors import PictureUnavailable
from sdapi.storage import LocalStorage, StorageError, media_type

NAME = "sd/0-6f1c2d.png"

BAD_NAMES = [
    "",
    "/etc/passwd",
    "../secret.png",
    "sd/../../secret.png",
    "sd/..",
    "sd//a.png",
    "sd/",
    "./a.png",
    ".hidden",
    "sd/.saving-1",
    "a/b/c/d.png",
    "sd/A.png",
    "sd\\a.png",
    "sd/a.png\n",
    "sd/a\0.png",
    "sd/%2e%2e/a.png",
    "sd/ä.png",
    "a" * 300,
]


@pytest.fixture
async def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "images")
    await storage.open()
    return storage


@pytest.fixture
def files_of_at_most_8_mib() -> Iterator[None]:
    """The kernel refuses larger writes, as it does when the disk is full. Roomy, because this process's own output may be a file, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**23, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_is_saved_is_loaded_found_and_served(storage: LocalStorage, tmp_path: Path) -> None:
    await storage.save(NAME, b"pixels")

    assert await storage.load(NAME) == b"pixels"
    assert await storage.exists(NAME)
    assert await storage.path(NAME) == tmp_path / "images" / NAME


async def test_saving_again_replaces(storage: LocalStorage) -> None:
    await storage.save(NAME, b"first")
    await storage.save(NAME, b"second")
    assert await storage.load(NAME) == b"second"


async def test_what_is_deleted_is_gone_and_deleting_twice_is_fine(storage: LocalStorage) -> None:
    await storage.save(NAME, b"pixels")
    await storage.delete(NAME)
    await storage.delete(NAME)

    assert not await storage.exists(NAME)
    assert await storage.path(NAME) is None
    with pytest.raises(PictureUnavailable):
        await storage.load(NAME)


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_bad_name_finds_nothing_and_saves_nothing(storage: LocalStorage, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")

    assert not await storage.exists(name)
    assert await storage.path(name) is None
    with pytest.raises(PictureUnavailable):
        await storage.load(name)
    with pytest.raises(ValueError, match="not a name"):
        await storage.save(name, b"pixels")
    with pytest.raises(ValueError, match="not a name"):
        await storage.delete(name)
    assert secret.read_bytes() == b"secret"


async def test_a_folder_is_not_a_picture(storage: LocalStorage) -> None:
    await storage.save(NAME, b"pixels")
    assert await storage.path("sd") is None
    assert await storage.path(f"{NAME}/more") is None
    await storage.delete(f"{NAME}/more")


async def test_a_link_out_of_the_folder_is_not_followed(storage: LocalStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (tmp_path / "images" / "way-out").symlink_to(outside)
    (tmp_path / "images" / "link.png").symlink_to(outside / "secret.png")

    for name in ("way-out/secret.png", "link.png"):
        assert await storage.path(name) is None
        with pytest.raises(PictureUnavailable):
            await storage.load(name)
        await storage.delete(name)
    with pytest.raises(StorageError):
        await storage.save("way-out/secret.png", b"mine")
    assert [path.name for path in outside.iterdir()] == ["secret.png"]
    assert (outside / "secret.png").read_bytes() == b"secret"


async def test_links_in_a_circle_are_no_picture(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "images" / "b.png")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "images" / "a.png")
    assert await storage.path("a.png") is None


async def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    storage = LocalStorage(tmp_path / "images")
    await storage.open()
    await storage.save(NAME, b"pixels")
    assert await storage.load(NAME) == b"pixels"


async def test_files_and_folders_can_be_read_by_a_web_server_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        await LocalStorage(tmp_path / "images").save("a/b/c.png", b"pixels")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "images").rglob("*")}
    assert modes == {"a": 0o755, "b": 0o755, "c.png": 0o644}
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o755


@pytest.mark.usefixtures("files_of_at_most_8_mib")
async def test_a_full_disk_is_told_and_leaves_what_was_there(storage: LocalStorage, tmp_path: Path) -> None:
    await storage.save(NAME, b"small")

    with pytest.raises(StorageError, match=r"^No room is left for pictures\.$") as caught:
        await storage.save(NAME, bytes(2**24))

    assert caught.value.disk_full
    assert await storage.load(NAME) == b"small"
    assert [path.name for path in (tmp_path / "images" / "sd").iterdir()] == [Path(NAME).name]


async def test_a_folder_that_cannot_be_made_is_an_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(tmp_path / "file")

    with pytest.raises(StorageError) as caught:
        await storage.save(NAME, b"pixels")
    assert not caught.value.disk_full
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(StorageError):
        await storage.open()


async def test_opening_removes_what_a_dead_process_left_but_not_what_another_is_writing(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "sd"
    folder.mkdir(parents=True)
    for name in (".saving-old", ".saving-new", "kept.png"):
        (folder / name).write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(folder / ".saving-old", (long_ago, long_ago))
    os.utime(folder / "kept.png", (long_ago, long_ago))

    await LocalStorage(tmp_path / "images").open()

    assert sorted(path.name for path in folder.iterdir()) == [".saving-new", "kept.png"]


async def test_a_reader_never_sees_half_a_picture(storage: LocalStorage) -> None:
    pictures = [bytes([value]) * 200_000 for value in range(8)]
    await storage.save(NAME, pictures[0])

    async def read() -> bytes:
        return await storage.load(NAME)

    results = await asyncio.gather(*(storage.save(NAME, picture) for picture in pictures), *(read() for _ in range(24)))
    assert all(seen in pictures for seen in results[len(pictures) :])


async def test_many_writers_may_make_the_same_folder_at_once(storage: LocalStorage) -> None:
    await asyncio.gather(*(storage.save(f"new/deep/{number}.png", b"pixels") for number in range(12)))
    assert await storage.load("new/deep/11.png") == b"pixels"


async def test_free_bytes_is_what_the_disk_has_left(storage: LocalStorage) -> None:
    assert await storage.free_bytes() > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd/a.png", "image/png"),
        ("a.jpg", "image/jpeg"),
        ("a.mp4", "video/mp4"),
        ("a.base64", "text/plain; charset=us-ascii"),
        ("a.html", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_media_type_comes_from_the_suffix(name: str, expected: str) -> None:
    assert media_type(name) == expected
