"""Pictures that clients put here are made anew, kept for a while, and removed by nobody but their owner."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.db.tables import UploadRow
from sdapi.domain.errors import ImageRefused
from sdapi.remote_images import RemoteImages
from sdapi.storage import LocalStorage
from sdapi.uploads import Uploads

KEEP = timedelta(days=7)


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "images")
    await storage.open()
    return storage


@pytest.fixture
async def uploads(sessions: async_sessionmaker[AsyncSession], storage: LocalStorage, clock: Clock) -> AsyncIterator[Uploads]:
    images = RemoteImages(storage=storage, max_bytes=2**20, max_pixels=1_000_000, timeout_s=1)
    yield Uploads(sessions=sessions, storage=storage, images=images, keep=KEEP, now=clock)
    await images.aclose()


def a_picture(size: tuple[int, int] = (30, 10), text: str | None = None) -> bytes:
    """Its left, middle and right thirds are red, green and blue."""
    picture = Image.new("RGB", size)
    third = size[0] // 3
    for index, colour in enumerate(("red", "lime", "blue")):
        picture.paste(colour, (index * third, 0, (index + 1) * third, size[1]))
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text("Comment", text)
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_what_is_kept_shows_the_picture_without_a_byte_of_the_clients(uploads: Uploads, storage: LocalStorage) -> None:
    sent = a_picture(text="<script>") + b"<html>appended</html>"
    upload = await uploads.add("image", f"data:image/png;base64,{inline(sent)}", client_id=1)
    kept = await storage.load(upload.name)
    assert b"script" not in kept
    assert b"html" not in kept
    assert Image.open(BytesIO(kept)).tobytes() == Image.open(BytesIO(sent)).tobytes()
    assert 1 <= upload.id < 2**31


async def test_a_square_is_the_middle(uploads: Uploads, storage: LocalStorage) -> None:
    upload = await uploads.add("image", inline(a_picture()), client_id=1, square=True)
    picture = Image.open(BytesIO(await storage.load(upload.name))).convert("RGB")
    assert picture.size == (10, 10)
    assert picture.getcolors() == [(100, (0, 255, 0))]


async def test_a_link_is_no_picture(uploads: Uploads) -> None:
    with pytest.raises(ImageRefused, match="base64"):
        await uploads.add("image", "HTTPS://example.com/x.png", client_id=1)


async def test_what_is_longer_than_allowed_is_refused_before_it_is_decoded(uploads: Uploads) -> None:
    data = a_picture()
    await uploads.add("image", inline(data), client_id=1, max_bytes=len(data))
    with pytest.raises(ImageRefused, match="larger"):
        await uploads.add("image", f"data:image/png;base64,{inline(data)}", client_id=1, max_bytes=len(data) - 3)


async def test_only_its_owner_removes_an_upload_by_id_or_by_name(uploads: Uploads, storage: LocalStorage) -> None:
    first = await uploads.add("image", inline(a_picture()), client_id=1)
    second = await uploads.add("image", inline(a_picture()), client_id=1)
    assert not await uploads.remove(first.id, client_id=2)
    assert not await uploads.remove_named(second.name, client_id=2)
    assert await storage.exists(first.name)
    assert await uploads.remove(first.id, client_id=1)
    assert await uploads.remove_named(second.name, client_id=1)
    assert not await storage.exists(first.name)
    assert not await storage.exists(second.name)
    assert not await uploads.remove(first.id, client_id=1)


async def test_uploads_go_after_the_retention_time_and_not_before(
    uploads: Uploads, storage: LocalStorage, clock: Clock, sessions: async_sessionmaker[AsyncSession]
) -> None:
    old = await uploads.add("image", inline(a_picture()), client_id=1)
    clock.time += KEEP - timedelta(seconds=1)
    young = await uploads.add("image", inline(a_picture()), client_id=1)
    assert await uploads.clean_up() == 0
    clock.time += timedelta(seconds=1)
    assert await uploads.clean_up() == 1
    assert not await storage.exists(old.name)
    assert await storage.exists(young.name)
    async with sessions() as session:
        assert list(await session.scalars(select(UploadRow.id))) == [young.id]


async def test_the_link_is_on_this_server_where_the_storage_has_no_public_address(uploads: Uploads) -> None:
    upload = await uploads.add("image", inline(a_picture()), client_id=1)
    assert await uploads.link(upload, public_url="http://here") == f"http://here/images/{upload.name}"
