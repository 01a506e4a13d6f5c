"""Prompts in other languages, through the paths clients use, with a tiny translator that was really trained."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import Scene

from tests.fixtures.translator import damage, install, repair
from tests.webhook_receiver import receiving

from .running import Running, eventually, running, settings_for

DRAW = "/api/v4/dreambooth"
ENGLISH = "a red circle on a blue background"
ASKED = {"model_id": "demo", "width": 128, "height": 128, "num_inference_steps": 8, "seed": 5, "multi_lingual": "yes"}
PROMPTS = {
    "French": "un cercle rouge sur un fond bleu",
    "German": "ein roter Kreis auf einem blauen Hintergrund",
    "Spanish": "un círculo rojo sobre un fondo azul",
    "Italian": "un cerchio rosso su uno sfondo blu",
    "Japanese": "青い背景に赤い丸",
}


@pytest.fixture
async def translating(tmp_path: Path) -> AsyncIterator[Running]:
    # A job that is drawn twice because the machine is busy shares its forwards with itself, which rounds otherwise.
    settings = settings_for(tmp_path, stale_after_s=60)
    install(settings.models_dir)
    async with running(settings) as opened:
        yield opened


async def post(server: Running, body: Mapping[str, object], path: str = DRAW) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.client.post(path, json={**ASKED, **body})).json()
    return answer


async def test_a_prompt_in_any_of_five_languages_draws_what_the_english_one_draws(translating: Running) -> None:
    english = await post(translating, {"prompt": ENGLISH})
    picture = await translating.picture(english["output"][0])
    assert english["meta"]["multi_lingual"] == "yes"
    found = detect(picture)
    assert (found.colour, found.shape, found.background) == ("red", "circle", "blue")
    for language, prompt in PROMPTS.items():
        answer = await post(translating, {"prompt": prompt})
        assert answer["status"] == "success", answer
        assert answer["meta"]["prompt"] == ENGLISH, language
        assert (await translating.picture(answer["output"][0])).tobytes() == picture.tobytes(), language


async def test_a_red_circle_asked_for_in_french_is_drawn(translating: Running) -> None:
    answer = await post(translating, {"prompt": "un cercle rouge", "seed": 2})
    assert answer["meta"]["prompt"] == "a red circle"
    found = detect(await translating.picture(answer["output"][0]))
    assert (found.colour, found.shape) == ("red", "circle")


async def test_without_multi_lingual_the_prompt_is_left_alone(translating: Running) -> None:
    answer = await post(translating, {"prompt": PROMPTS["French"], "multi_lingual": "no"})
    assert (answer["meta"]["prompt"], answer["meta"]["multi_lingual"]) == (PROMPTS["French"], "no")


async def test_weights_tags_and_the_words_of_the_model_stay_where_they_are(translating: Running) -> None:
    folder = translating.settings.models_dir / "checkpoints"
    folder.mkdir()
    (folder / "vivid").symlink_to(Path(__file__).parents[2] / "models" / "demo", target_is_directory=True)
    (folder / "vivid.toml").write_text('trigger = "vivid style"\nenhance = "sharp focus"\nnegative = "watermark"\n')
    body = {
        "model_id": "vivid",
        "prompt": "masterpiece, un (cercle rouge:1.3) sur un fond bleu",
        "negative_prompt": "flou, (carré vert:1.2)",
    }
    answer = await post(translating, body)
    assert answer["status"] == "success", answer
    assert answer["meta"]["prompt"] == "vivid style masterpiece, a (red circle:1.3) on a blue background, sharp focus"
    assert answer["meta"]["negative_prompt"] == "blurry, (green square:1.2), watermark"
    told = translating.settings.data_dir / "images"
    assert any(b"vivid style masterpiece, a (red circle:1.3)" in path.read_bytes() for path in told.rglob("*.png"))


async def test_every_one_of_prompts_joined_by_and_is_translated(translating: Running) -> None:
    answer = await post(translating, {"prompt": "un cercle rouge AND fond bleu :0.5"})
    assert answer["meta"]["prompt"] == "a red circle :1 AND blue background :0.5"


async def test_the_answer_the_webhook_and_fetch_tell_the_words_that_were_drawn(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    install(settings.models_dir)
    async with running(settings) as server, receiving() as receiver:
        answer = await post(server, {"prompt": PROMPTS["German"], "webhook": receiver.url()})
        await eventually(lambda: asyncio.sleep(0, receiver.calls))
        told = json.loads(receiver.calls[0].body)
        fetched = (await server.client.post("/api/v4/dreambooth/fetch", json={"request_id": answer["id"], "key": ""})).json()
        job = await server.services.jobs.fetch(answer["id"], client_id=None)
    assert answer["meta"]["prompt"] == told["meta"]["prompt"] == ENGLISH
    assert fetched["status"] == "success"
    assert fetched.get("meta", answer["meta"])["prompt"] == ENGLISH
    assert job.request.model_dump()["translation"] is None


@pytest.mark.parametrize("prompt", [*PROMPTS.values(), "кот на крыше"])
async def test_without_a_translator_a_foreign_prompt_is_refused_by_name_and_nothing_is_recorded(server: Running, prompt: str) -> None:
    answer = await post(server, {"prompt": prompt})
    assert answer["status"] == "error", answer
    (sentence,) = answer["message"]["multi_lingual"]
    assert "models/translators/<id>/" in sentence
    assert "facebook/mbart-large-50-many-to-one-mmt" in sentence
    assert (await server.client.get("/jobs")).json()["jobs"] == []


async def test_without_a_translator_english_prompts_are_drawn(server: Running) -> None:
    assert (await post(server, {"prompt": "masterpiece, 1girl, best quality"}))["status"] == "success"


async def test_a_damaged_translator_fails_its_request_with_a_sentence_and_the_next_is_drawn(translating: Running) -> None:
    folder = translating.settings.models_dir / "translators" / "tiny"
    damage(folder)
    answer = await post(translating, {"prompt": PROMPTS["French"]})
    assert answer["status"] == "failed", answer
    assert "models/translators/tiny/ can't be loaded" in str(answer)
    assert (await post(translating, {"prompt": ENGLISH}))["status"] == "success"
    repair(folder)
    assert (await post(translating, {"prompt": PROMPTS["French"]}))["meta"]["prompt"] == ENGLISH


async def test_control_nets_translate_unless_told_otherwise_where_there_is_a_translator(server: Running) -> None:
    picture = io.BytesIO()
    draw(Scene(shape="star", colour="yellow", background="black"), 128, 128).save(picture, "PNG")
    sent = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    body = {name: value for name, value in ASKED.items() if name != "multi_lingual"} | {
        "num_inference_steps": 1,
        "prompt": PROMPTS["French"],
    }
    body |= {"controlnet_model": "demo-canny", "controlnet_type": "canny", "init_image": sent}

    async def told(**more: str) -> tuple[str, str]:
        answer = (await server.client.post("/api/v5/controlnet", json={**body, **more})).json()
        assert answer["status"] == "success", answer
        return answer["meta"]["prompt"], answer["meta"]["multi_lingual"]

    assert await told() == (PROMPTS["French"], "no")
    install(server.settings.models_dir)
    assert await told() == (ENGLISH, "yes")
    assert await told(multi_lingual="no") == (PROMPTS["French"], "no")


@pytest.mark.parametrize(
    "path", ["/api/v3/text2img", "/api/v4/dreambooth", "/api/v6/images/text2img", "/api/v1/enterprise/text2img", "/api/v3/dreambooth"]
)
async def test_every_documented_call_translates(translating: Running, path: str) -> None:
    _, key = await translating.services.api_keys.create("all", "enterprise")
    body = {**ASKED, "num_inference_steps": 1, "prompt": PROMPTS["Italian"], "key": key}
    answer = (await translating.client.post(path, json=body, headers={"X-API-KEY": key})).json()
    assert answer["status"] == "success", answer
    assert answer["meta"]["prompt"] == ENGLISH


async def test_stock_words_are_appended_where_that_is_set_but_not_for_the_embedded_model(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, enhance_prompt="stock")
    folder = settings.models_dir / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "bare").symlink_to(Path(__file__).parents[2] / "models" / "demo", target_is_directory=True)
    async with running(settings) as server:
        bare = await post(server, {"model_id": "bare", "prompt": ENGLISH, "negative_prompt": "hands"})
        embedded = await post(server, {"prompt": ENGLISH})
        plain = await post(server, {"model_id": "bare", "prompt": ENGLISH, "enhance_prompt": "no"})
    assert bare["meta"]["prompt"] == f"{ENGLISH}, DSLR photography, sharp focus, Unreal Engine 5, Octane Render"
    assert bare["meta"]["negative_prompt"].startswith("hands, painting, extra fingers, mutated hands")
    assert embedded["meta"]["prompt"] == plain["meta"]["prompt"] == ENGLISH
    assert embedded["meta"]["negative_prompt"] == plain["meta"]["negative_prompt"] == ""
