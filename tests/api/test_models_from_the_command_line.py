"""What `sdapi models` puts into the folder of a running server is drawn with at once, and what it removes is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from recipe.detector import detect
from typer.testing import CliRunner

from sdapi.catalog import embedded_model_dir
from sdapi.cli import app
from tests.pipelines.drawing import greatest_difference
from tests.pipelines.lora_files import a_lora, install, kohya
from tests.unit.fake_model_source import ModelSource, model_source
from tests.unit.test_model_downloads import folder_bytes

from .running import Running, eventually, running, settings_for

ASKED: dict[str, Any] = {"seed": 7, "num_inference_steps": 4}
VISIBLE = 8


@pytest.fixture
async def source() -> AsyncIterator[ModelSource]:
    async with model_source() as serving:
        yield serving


@pytest.fixture
async def server(tmp_path: Path, source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A server, and settings of the command line that lead to the same database and folder."""
    changes = {"hub_url": f"{source.base}/hub"}
    settings = settings_for(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    for name in ("data_dir", "models_dir", "hub_url", "allow_private_urls", "heartbeat_s", "stale_after_s"):
        monkeypatch.setenv(f"SDAPI_{name.upper()}", str(getattr(settings, name)))
    async with running(settings) as opened:
        yield opened


async def models(*arguments: object) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["models", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


async def answer_to(server: Running, **body: object) -> dict[str, Any]:
    asked = {"prompt": "a red circle on a blue background", "width": "64", "height": "64", **ASKED, **body}
    answer: dict[str, Any] = (await server.client.post("/sd/txt2img", json=asked)).json()
    return answer


async def test_a_pulled_model_is_drawn_with_and_a_removed_one_is_not_found(server: Running, source: ModelSource) -> None:
    demo = embedded_model_dir()
    assert demo is not None
    source.publish("org/shapes", folder_bytes(demo), card={"license": "mit"})
    unknown = await answer_to(server, model_id="shapes")
    assert unknown["message"] == "Model id not found"

    assert "checkpoint shapes is in" in await models("pull", "org/shapes")

    await eventually(lambda: asyncio.to_thread(lambda: "shapes" in server.services.catalog.ids()))
    drawn = await server.drawn(model_id="shapes", seed=7, num_inference_steps=20, width="128", height="128")
    seen = detect(await server.picture(drawn["output"][0]))
    assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")
    assert drawn["meta"]["model_id"] == "shapes"
    assert json.loads(await models("show", "shapes", "--json"))["licence"] == "mit"
    await models("verify", "shapes")

    await models("remove", "shapes", "--yes")

    await eventually(lambda: asyncio.to_thread(lambda: "shapes" not in server.services.catalog.ids()))
    assert await answer_to(server, model_id="shapes") == unknown


async def test_a_lora_that_is_pulled_or_added_changes_the_picture(server: Running, source: ModelSource, tmp_path: Path) -> None:
    install(tmp_path / "elsewhere", "ink", kohya(a_lora(1)))
    (file,) = (tmp_path / "elsewhere" / "loras").iterdir()
    url = source.put("/files/wash.safetensors", file.read_bytes())

    await models("add", file)
    await models("pull", url, "--kind", "lora")

    def ids() -> set[str]:
        return {asset.id for asset in server.services.assets.all("lora")}

    await eventually(lambda: asyncio.to_thread(lambda: {"ink", "wash"} <= ids()))
    plain, ink, wash = [await server.drawn(**ASKED, **lora) for lora in ({}, {"lora_model": "ink"}, {"lora_model": "wash"})]
    pictures = [await server.picture(answer["output"][0]) for answer in (plain, ink, wash)]
    assert greatest_difference(pictures[0], pictures[1]) > VISIBLE
    assert greatest_difference(pictures[1], pictures[2]) == 0
    await models("remove", "ink", "--yes")
    await eventually(lambda: asyncio.to_thread(lambda: "ink" not in ids()))
    assert (await answer_to(server, lora_model="ink"))["status"] == "error"
