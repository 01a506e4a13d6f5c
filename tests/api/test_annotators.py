"""Control maps by trained annotators, through the paths clients use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.pipelines.annotator_files import hed_tensors, install_depth, install_file
from tests.pipelines.control_nets import install

from .running import Running, running, settings_for
from .test_controlnet import LED, a_picture, difference, post

LED_BY_DEPTH = {**LED, "controlnet_type": "depth", "samples": 2}
PATH = "/api/v5/controlnet"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    settings = settings_for(tmp_path)
    install(settings.models_dir, "outlines", seed=1)
    async with running(settings) as opened:
        yield opened


async def test_the_installed_depth_model_leads_the_drawing_and_another_one_leads_it_elsewhere(server: Running) -> None:
    body = {**LED_BY_DEPTH, "init_image": a_picture()}
    refused = await post(server, PATH, body)
    assert "put a depth estimation model in transformers' format" in refused["message"]["controlnet_type"][0]
    assert "models/annotators/depth/" in refused["message"]["controlnet_type"][0]
    assert (await server.client.get("/jobs")).json()["jobs"] == []

    install_depth(server.settings.models_dir, seed=1)
    first = await post(server, PATH, body)
    install_depth(server.settings.models_dir, seed=2)
    second = await post(server, PATH, body)
    again = await post(server, PATH, body)
    assert first["status"] == second["status"] == "success", (first, second)
    assert len(first["output"]) == 2
    assert first["meta"]["controlnet_type"] == "depth"
    assert await difference(server, first, second) > 0.1
    assert await difference(server, second, again) == 0
    unlike = await post(server, PATH, {**body, "init_image": a_picture("square")})
    assert await difference(server, second, unlike) > 0.1


async def test_a_damaged_annotator_fails_its_request_with_a_sentence_and_the_next_is_drawn(server: Running) -> None:
    folder = install_depth(server.settings.models_dir)
    (folder / "model.safetensors").write_bytes(b"{" * 100)
    answer = await post(server, PATH, {**LED_BY_DEPTH, "init_image": a_picture()})
    assert answer["status"] == "failed", answer
    assert "models/annotators/depth/ can't be loaded" in str(answer)
    assert (await post(server, PATH, {**LED, "init_image": a_picture()}))["status"] == "success"
    install_depth(server.settings.models_dir)
    assert (await post(server, PATH, {**LED_BY_DEPTH, "init_image": a_picture()}))["status"] == "success"


async def test_soft_edges_are_those_of_the_network_once_that_is_installed(server: Running) -> None:
    body = {**LED, "controlnet_type": "softedge", "init_image": a_picture()}
    without = await post(server, PATH, body)
    install_file(server.settings.models_dir, "hed", hed_tensors())
    assert await difference(server, without, await post(server, PATH, body)) > 0.1
