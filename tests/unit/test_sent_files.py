"""Files are pictures where a picture is asked for, and nowhere else; what is in them tells them apart."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.api_keys import ApiKey
from sdapi.dialects import enterprise, goapi, v3, v6
from sdapi.dialects.administration import CheckImageBody, CropBody, DeleteImageBody, UploadImageBody, picture_checked
from sdapi.dialects.base import Dialect, Picture, ReadLimits
from sdapi.dialects.wire_types import WireBody
from sdapi.domain.errors import ImageRefused, InvalidRequest, QueueFull
from sdapi.domain.limits import KeyLimits, OwnLimits
from sdapi.domain.sent_file import SentFile
from sdapi.quotas import Quotas
from sdapi.remote_images import RemoteImages
from sdapi.storage import LocalStorage

MAX_BYTES = 100_000


def a_file(content: bytes = b"a picture") -> SentFile:
    return SentFile(hashlib.sha256(content).hexdigest(), len(content), io.BytesIO(content))


def a_png(size: tuple[int, int] = (16, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 100).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def pictures(dialect: Dialect, path: str, body: Mapping[str, object]) -> tuple[Picture, ...]:
    (endpoint,) = (row for row in dialect.ENDPOINTS if row.path == path)
    return endpoint.parse(body, ReadLimits()).pictures


COMMON = {"prompt": "a cat", "model_id": "demo", "controlnet_model": "canny"}


@pytest.mark.parametrize(
    ("dialect", "path", "fields"),
    [
        (goapi, "/sd/img2img", ["init_image"]),
        (goapi, "/sd/controlnet", ["init_image", "control_image", "mask_image"]),
        (goapi, "/sd/upscale", ["url"]),
        (goapi, "/sd/upscale", ["init_image"]),
        (v3, "/api/v3/img2img", ["init_image"]),
        (v3, "/api/v3/inpaint", ["init_image", "mask_image"]),
        (v3, "/api/v5/controlnet", ["init_image", "mask_image", "control_image"]),
        (v3, "/api/v3/super_resolution", ["url"]),
        (v6, "/api/v6/images/img2img", ["init_image"]),
        (v6, "/api/v6/images/inpaint", ["init_image", "mask_image"]),
        (v6, "/api/v6/image_editing/super_resolution", ["init_image"]),
        (enterprise, "/api/v1/enterprise/img2img", ["init_image"]),
        (enterprise, "/api/v1/enterprise/inpaint", ["init_image", "mask_image"]),
        (enterprise, "/api/v1/enterprise/controlnet", ["init_image", "mask_image", "control_image"]),
        (enterprise, "/api/v1/enterprise/super_resolution", ["url"]),
    ],
)
def test_every_picture_of_every_dialect_may_be_a_file(dialect: Dialect, path: str, fields: list[str]) -> None:
    files = {name: a_file(name.encode()) for name in fields}
    assert {picture.field: picture.source for picture in pictures(dialect, path, {**COMMON, **files})} == files


@pytest.mark.parametrize(
    "name",
    ["prompt", "negative_prompt", "width", "seed", "strength", "scheduler", "sampling_method", "lora_model", "controlnet_model",
     "webhook", "track_id", "base64", "key", "loadbalancer", "vae"],
)  # fmt: skip
@pytest.mark.parametrize(("dialect", "path"), [(goapi, "/sd/img2img"), (v3, "/api/v3/img2img"), (enterprise, "/api/v1/enterprise/img2img")])
def test_a_file_anywhere_else_is_refused_by_its_name(dialect: Dialect, path: str, name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        pictures(dialect, path, {**COMMON, "init_image": "http://there/a.png", name: a_file()})
    assert refusal.value.problems == {name: [f"The {name} must not be a file: this call takes files as init_image."]}


def test_a_picture_under_a_wrong_name_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        pictures(goapi, "/sd/upscale", {"image": a_file()})
    assert refusal.value.problems == {"image": ["The image must not be a file: this call takes files as url, init_image."]}


def test_a_call_that_starts_from_no_picture_takes_no_files() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        pictures(goapi, "/sd/txt2img", {**COMMON, "init_image": a_file()})
    assert refusal.value.problems == {"init_image": ["The init_image must not be a file: this call takes no files."]}


@pytest.mark.parametrize(("body", "name"), [(UploadImageBody, "base64_image"), (CropBody, "image"), (CheckImageBody, "init_image")])
def test_the_small_calls_take_files_too(body: type[WireBody], name: str) -> None:
    assert getattr(body.model_validate({name: a_file()}), name) == a_file()


def test_an_image_to_delete_is_named_and_not_sent() -> None:
    with pytest.raises(InvalidRequest, match="takes no files"):
        DeleteImageBody.model_validate({"image": a_file()})


@pytest.mark.parametrize("dialect", [goapi, v3, v6, enterprise])
def test_a_file_is_no_id(dialect: Dialect) -> None:
    assert dialect.parse_fetch({"id": a_file(), "request_id": a_file()}) is None


def test_a_checked_file_is_told_again_no_more_than_base64_is() -> None:
    told = {source: picture_checked(source, is_unsafe=False)["images"] for source in (a_file(), "aGVsbG8=", "http://there/a.png")}
    assert list(told.values()) == ["", "", "http://there/a.png"]


# -- what is in it -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[RemoteImages]:
    opened = RemoteImages(storage=LocalStorage(tmp_path), max_bytes=MAX_BYTES, max_pixels=10_000, timeout_s=1)
    yield opened
    await opened.aclose()


async def test_a_file_is_decoded_as_often_as_it_is_asked_for(images: RemoteImages) -> None:
    png = a_png()
    sent = a_file(png)
    sent.content.seek(7)
    for _ in range(2):
        picture = await images.load("init_image", sent, public_url="", base64_allowed=False)
        assert picture.tobytes() == Image.open(io.BytesIO(png)).tobytes()
    assert (await images.load("mask_image", sent, public_url="", as_mask=True)).mode == "L"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "The init_image is not a picture we can read (PNG, JPEG, WebP, GIF, BMP)."),
        (b"http://there/a.png", "The init_image is not a picture we can read (PNG, JPEG, WebP, GIF, BMP)."),
        (b"aGVsbG8gd29ybGQ=", "The init_image is not a picture we can read (PNG, JPEG, WebP, GIF, BMP)."),
        (a_png()[:100], "The init_image is not a picture we can read (PNG, JPEG, WebP, GIF, BMP)."),
        (a_png((101, 100)), "The init_image has more than 10000 pixels."),
        (bytes(MAX_BYTES + 1), "The init_image is larger than 100000 bytes."),
    ],
)
async def test_a_file_passes_the_guards_that_every_picture_passes(images: RemoteImages, content: bytes, sentence: str) -> None:
    with pytest.raises(ImageRefused) as refusal:
        await images.load("init_image", a_file(content), public_url="")
    assert refusal.value.problems == {"init_image": [sentence]}


# -- whether it is the same --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("second", "is_repeat"), [(b"one", True), (b"two", False)])
async def test_equal_files_make_equal_requests(sessions: async_sessionmaker[AsyncSession], second: bytes, is_repeat: bool) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    quotas = Quotas(sessions, defaults=KeyLimits(0, 0, 0), repeats_per_30_s=1, now=lambda: at)
    key = ApiKey(id=1, name="studio", role="user", prefix="sd_12345", created_at=at, revoked_at=None, limits=OwnLimits())
    await quotas.admit(key, path="/sd/img2img", body={"prompt": "a cat", "init_image": a_file(b"one")})
    again = {"init_image": a_file(second), "prompt": "a cat"}
    if is_repeat:
        with pytest.raises(QueueFull):
            await quotas.admit(key, path="/sd/img2img", body=again)
    else:
        await quotas.admit(key, path="/sd/img2img", body=again)
