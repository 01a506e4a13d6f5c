"""Films through the front door: which model draws them, the link in the answer, the file behind it, and what is refused."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image
from sqlalchemy import func, select

from sdapi.db.tables import JobRow
from sdapi.services import open_inventory
from tests.pipelines.tiny_films import MOTION_FRAMES, frames_of_mp4, write_film_folder, write_motion_adapter

from .running import HOST, Running

V5 = "/api/v5/text2video"
ENTERPRISE = "/api/v1/enterprise/text2video"
SHORT: dict[str, Any] = {"prompt": "a red circle", "width": "64", "height": "64", "num_inference_steps": "2", "seed": 7, "seconds": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each kind, saved once for all tests."""
    folder = tmp_path_factory.mktemp("saved")
    for family in ("animatediff", "modelscope", "wan"):
        write_film_folder(folder / family, family)
    return folder


def install(server: Running, saved: Path, *families: str) -> None:
    for family in families:
        shutil.copytree(saved / family, server.settings.models_dir / "video" / f"a-{family}")


async def ask(server: Running, path: str, **body: object) -> Any:
    return await server.stranger.post(path, json={"key": await key_of(server, path), **SHORT, **body})


async def key_of(server: Running, path: str) -> str:
    if "enterprise" not in path:
        return server.client.headers["X-API-KEY"]
    _, key = await server.services.api_keys.create("owner", "enterprise")
    return key


def frames_of(data: bytes) -> tuple[list[Image.Image], float, str]:
    """The frames, how many go by in a second, and what is said of them."""
    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.video[0].average_rate
        assert rate is not None
        return frames_of_mp4(data), float(rate), container.metadata.get("comment", "")


@pytest.mark.parametrize(("path", "family", "frames", "rate"), [(V5, "modelscope", 8, 8), (ENTERPRISE, "wan", 17, 16)])
async def test_a_film_is_answered_served_in_parts_and_fetched(
    server: Running, saved: Path, path: str, family: str, frames: int, rate: int
) -> None:
    install(server, saved, family)
    key = await key_of(server, path)
    answer = (await ask(server, path, model_id=f"a-{family}", key=key)).json()
    assert answer["status"] == "success", answer
    assert "meta" not in answer
    (url,) = answer["output"]
    assert url.startswith(HOST)
    assert url.endswith(".mp4")
    got = await server.stranger.get(url)
    assert got.headers["content-type"] == "video/mp4"
    pictures, told_rate, comment = frames_of(got.content)
    assert (len(pictures), told_rate, {picture.size for picture in pictures}) == (frames, rate, {(64, 64)})
    assert comment.startswith("a red circle\nSteps: 2")
    assert f"Frames: {frames}" in comment
    part = await server.stranger.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    fetch_path = "/api/v1/enterprise/fetch" if path == ENTERPRISE else "/api/v4/dreambooth/fetch"
    fetched = (await server.stranger.post(f"{fetch_path}/{answer['id']}", json={"key": key})).json()
    assert fetched["output"] == [url]


async def test_without_a_model_id_the_first_by_id_draws_and_pictures_are_drawn_beside_it(server: Running, saved: Path) -> None:
    install(server, saved, "modelscope", "wan")
    answer = (await ask(server, V5)).json()
    pictures, rate, _ = frames_of((await server.stranger.get(answer["output"][0])).content)
    assert (len(pictures), rate) == (8, 8), "as ModelScope, not as Wan"
    await server.drawn(num_inference_steps=2)


async def test_an_unknown_model_is_told_with_those_there_are(server: Running, saved: Path) -> None:
    install(server, saved, "modelscope")
    for model_id in ("nothing", "demo"):
        answer = (await ask(server, ENTERPRISE, model_id=model_id)).json()
        assert answer["status"] == "error"
        assert "Model id not found" in answer["message"]
        assert "a-modelscope" in answer["tip"]
        assert "demo" not in answer["tip"], "it draws no films"


@pytest.mark.parametrize("path", [V5, ENTERPRISE])
async def test_without_any_model_the_answer_names_what_to_install_and_nothing_is_recorded(server: Running, path: str) -> None:
    answer = (await ask(server, path, model_id="demo")).json()
    assert answer["status"] == "error"
    assert "models/video/" in answer["message"]
    async with server.services.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(JobRow)) == 0


async def test_what_can_not_be_done_with_a_film_is_refused_by_name(server: Running, saved: Path) -> None:
    install(server, saved, "animatediff")
    for field, value in (("seconds", "2"), ("upscale", "2"), ("clip_skip", 2), ("panorama", "yes"), ("self_attention", "yes")):
        answer = (await ask(server, V5, **{field: value})).json()
        assert answer["status"] == "error", field
        assert field in answer["message"], answer
    assert "1 seconds" in str((await ask(server, V5, seconds=20)).json()["message"]["seconds"])
    pictures, _, _ = frames_of((await server.stranger.get((await ask(server, V5)).json()["output"][0])).content)
    assert len(pictures) == MOTION_FRAMES


async def test_a_motion_adapter_moves_the_checkpoint_of_the_request(server: Running) -> None:
    write_motion_adapter(server.settings.models_dir / "video" / "mover")
    for path, named in ((ENTERPRISE, {"model_id": "demo"}), (ENTERPRISE, {"model_id": "mover"}), (V5, {})):
        answer = (await ask(server, path, **named)).json()
        assert answer["status"] == "success", answer
        pictures, _, comment = frames_of((await server.stranger.get(answer["output"][0])).content)
        assert len(pictures) == MOTION_FRAMES
        assert "Model: demo" in comment
        assert "Motion adapter: mover" in comment
    unknown = (await ask(server, ENTERPRISE, model_id="nothing")).json()
    assert "Model id not found" in unknown["message"]


async def test_its_models_are_listed_with_the_others_and_a_broken_one_is_told(server: Running, saved: Path) -> None:
    install(server, saved, "wan")
    video = server.settings.models_dir / "video"
    (video / "single.safetensors").write_bytes(b"")
    inventory = open_inventory(server.settings)
    (listed,) = inventory.models("video")
    assert (listed.id, listed.family, listed.is_embedded) == ("a-wan", "wan", False)
    assert [(kind, problem.path.name) for kind, problem in inventory.problems("video")] == [("video", "single.safetensors")]
    assert "a-wan" not in {checkpoint.id for checkpoint in server.services.catalog.all()}
