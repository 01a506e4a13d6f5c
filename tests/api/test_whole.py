"""Models of other families through the front door: dropped into the folder, listed, drawn with, and refused what they can't do."""

from __future__ import annotations

import base64
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.pipelines.drawing import greatest_difference
from tests.pipelines.tiny_whole import write_whole_folder

from .running import Running

ASKED: dict[str, Any] = {"prompt": "a cat", "seed": 7, "num_inference_steps": 3, "model_id": "tiny-flux"}
VISIBLE = 8


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, saved once for all tests."""
    return write_whole_folder(tmp_path_factory.mktemp("saved") / "tiny-flux", "flux")


@pytest.fixture
def flux(server: Running, saved: Path) -> Path:
    return shutil.copytree(saved, server.settings.models_dir / "checkpoints" / "tiny-flux")


def a_picture(colour: str) -> str:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.usefixtures("flux")
async def test_a_flux_folder_is_drawn_with_and_its_pictures_depend_on_what_was_asked(server: Running) -> None:
    answer = await server.drawn(**ASKED)
    picture = await server.picture(answer["output"][0])
    assert picture.size == (64, 64)
    assert greatest_difference(picture, await server.picture((await server.drawn(**ASKED))["output"][0])) == 0
    for change in ({"prompt": "9"}, {"guidance_scale": 12}, {"negative_prompt": "blurry pictures"}):
        other = await server.picture((await server.drawn(**ASKED | change))["output"][0])
        assert greatest_difference(picture, other) >= VISIBLE, change


@pytest.mark.usefixtures("flux")
async def test_the_sampler_it_was_made_for_is_kept_and_the_answer_says_so(server: Running) -> None:
    plain = await server.drawn(**ASKED)
    named = await server.drawn(**ASKED, scheduler="DDIMScheduler")
    body = {"key": server.client.headers["X-API-KEY"], "width": "64", "height": "64", **ASKED, "scheduler": "Euler a"}
    meta = (await server.stranger.post("/api/v4/dreambooth", json=body)).json()["meta"]
    assert meta["scheduler"] == "default"
    assert meta["guidance_scale"] == 3.5, "the family's own where nobody names one"
    pictures = [await server.picture(answer["output"][0]) for answer in (plain, named)]
    assert greatest_difference(*pictures) == 0


@pytest.mark.usefixtures("flux")
async def test_it_starts_from_pictures(server: Running) -> None:
    answers = [await server.drawn("/sd/img2img", **ASKED, init_image=a_picture(colour), strength=0.4) for colour in ("black", "white")]
    from_black, from_white = [await server.picture(answer["output"][0]) for answer in answers]
    assert greatest_difference(from_black, from_white) >= VISIBLE


@pytest.mark.usefixtures("flux")
async def test_what_the_family_can_not_do_is_refused_before_it_is_recorded(server: Running) -> None:
    body = {"key": server.client.headers["X-API-KEY"], "width": "64", "height": "64", **ASKED}
    for field, value in (("clip_skip", "2"), ("self_attention", "yes"), ("panorama", "yes"), ("highres_fix", "yes")):
        response = await server.stranger.post("/api/v4/dreambooth", json=body | {field: value})
        assert response.json()["status"] == "error", field
        assert field in response.text
        assert "flux" in response.text
    nowhere = {"init_image": "http://127.0.0.1:9/nothing.png", "clip_skip": "2"}
    response = await server.stranger.post("/api/v4/dreambooth/img2img", json=body | nowhere)
    assert "clip_skip" in response.text, "told before the picture was fetched"
    await server.drawn(**ASKED)


@pytest.mark.usefixtures("flux")
async def test_prompts_that_are_too_long_are_drawn_and_stay_out_of_the_log(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    await server.drawn(**ASKED | {"prompt": "zebra crossing " * 60})
    assert "zebra" not in caplog.text


@pytest.mark.usefixtures("flux")
async def test_it_is_listed_with_its_family(server: Running) -> None:
    listed = {checkpoint.id: checkpoint for checkpoint in server.services.catalog.all()}
    assert listed["tiny-flux"].family == "flux"
    body = {"key": server.client.headers["X-API-KEY"]}
    answer = (await server.stranger.post("/api/v4/dreambooth/model_list", json=body)).json()
    assert "tiny-flux" in str(answer)


async def test_a_folder_with_code_of_its_own_is_not_listed(server: Running, flux: Path) -> None:
    index = flux / "model_index.json"
    index.write_text(
        index.read_text().replace('"FluxTransformer2DModel"', '"Mine"').replace('"diffusers",\n    "Mine"', '"mine",\n    "Mine"')
    )
    (problem,) = server.services.catalog.problems()
    assert problem.sentence == "Its part 'transformer' is no class of diffusers or transformers; code that comes with a model is never run."
