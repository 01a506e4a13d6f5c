"""LoRAs, textual inversions and VAEs through the front door: what a request names is used, told, or refused before it is recorded."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdapi.domain.job import Job, JobStatus
from tests.pipelines.drawing import demo_parts, greatest_difference
from tests.pipelines.lora_files import a_lora, install, kohya

from .running import Running, eventually

ASKED: dict[str, Any] = {"seed": 7, "num_inference_steps": 4}
VISIBLE = 8


@pytest.fixture
def models(server: Running) -> Path:
    folder: Path = server.settings.models_dir
    install(folder, "moxin", kohya(a_lora(1)))
    install(folder, "sharp", kohya(a_lora(2)))
    (folder / "embeddings").mkdir()
    save_file({"emb_params": torch.randn(2, 64, generator=torch.Generator().manual_seed(1))}, folder / "embeddings" / "moody.safetensors")
    vae = copy.deepcopy(demo_parts().vae)
    vae.decoder.conv_out.bias.data -= 0.3
    vae.save_pretrained(folder / "vaes" / "dark")
    return folder


async def differs(server: Running, one: dict[str, Any], other: dict[str, Any]) -> int:
    return greatest_difference(await server.picture(one["output"][0]), await server.picture(other["output"][0]))


async def finished(server: Running, answer: dict[str, Any]) -> Image.Image:
    """The picture of a job, whether or not the answer waited for it."""

    async def look() -> Job | None:
        job = await server.services.jobs.fetch(answer["id"], client_id=None)
        return job if job.status.is_final else None

    job = await eventually(look)
    assert job is not None
    assert job.status is JobStatus.SUCCEEDED, job.error
    return await server.picture(f"/images/{job.output_names[0]}")


@pytest.mark.usefixtures("models")
async def test_loras_by_field_and_by_tag_draw_the_same_and_are_told(server: Running) -> None:
    plain = await server.drawn(**ASKED)
    by_field = await server.drawn(**ASKED, lora_model="moxin,sharp", lora_strength="0.5,1")
    by_tag = await server.drawn(**ASKED | {"prompt": "a red circle <lora:moxin:0.5> on a blue background<lora:sharp>"})
    assert by_field["meta"]["lora"] == by_tag["meta"]["lora"] == "moxin,sharp"
    assert plain["meta"]["lora"] == ""
    assert by_tag["meta"]["prompt"] == "a red circle on a blue background"
    assert await differs(server, by_field, by_tag) == 0
    assert await differs(server, by_field, plain) >= VISIBLE
    again = await server.drawn(**ASKED)
    assert await differs(server, plain, again) == 0


@pytest.mark.usefixtures("models")
async def test_the_hosted_answers_tell_what_was_used(server: Running) -> None:
    body = {
        "key": server.client.headers["X-API-KEY"],
        "model_id": "demo",
        "prompt": "a red circle",
        "width": "64",
        "height": "64",
        "seed": 1,
    }
    asked = {"num_inference_steps": "4", "lora_model": "moxin", "lora_strength": "0.5", "embeddings_model": "moody", "vae": "dark"}
    answer = (await server.stranger.post("/api/v6/images/text2img", json=body | asked)).json()
    assert answer["status"] in ("success", "processing"), answer
    meta = answer["meta"]
    assert (meta["lora"], meta["lora_strength"], meta["embeddings"], meta["vae"]) == ("moxin", 0.5, "moody", "dark")
    await finished(server, answer)


async def test_the_file_of_a_picture_says_what_was_added_and_its_prompt_asks_for_it_again(server: Running, models: Path) -> None:
    answer = await server.drawn(**ASKED, lora_model="moxin", lora_strength="0.5")
    text = (await server.picture(answer["output"][0])).info["parameters"]
    file = (models / "loras" / "moxin.safetensors").read_bytes()
    tensors = file[8 + int.from_bytes(file[:8], "little") :]
    assert f'Lora hashes: "moxin: {hashlib.sha256(tensors).hexdigest()[:12]}"' in text
    prompt = text.splitlines()[0]
    assert prompt == "a red circle on a blue background <lora:moxin:0.5>"
    assert await differs(server, answer, await server.drawn(**ASKED | {"prompt": prompt})) == 0


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("asked", [{"embeddings_model": "moody"}, {"vae": "dark"}, {"prompt": "a moody circle <lora:moxin:1>"}])
async def test_what_the_hosted_calls_name_is_seen(server: Running, asked: dict[str, str]) -> None:
    base = {"key": server.client.headers["X-API-KEY"], "model_id": "demo", "prompt": "a circle", "width": "64", "height": "64", "seed": 1}
    pictures = []
    for body in (base, base | asked):
        answer = (await server.stranger.post("/api/v4/dreambooth", json=body | {"num_inference_steps": "4"})).json()
        pictures.append(await finished(server, answer))
    assert greatest_difference(*pictures) >= VISIBLE


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("asked", "field", "sentence"),
    [
        ({"lora_model": "nope"}, "lora_model", "There is no LoRA named 'nope' on this server. There are: demo-night, moxin, sharp."),
        (
            {"lora_model": "../moxin"},
            "lora_model",
            "There is no LoRA named '../moxin' on this server. There are: demo-night, moxin, sharp.",
        ),
        ({"prompt": "a cat <lora:nope:1>"}, "prompt", "There is no LoRA named 'nope' on this server. There are: demo-night, moxin, sharp."),
        ({"prompt": "a cat <lora:moxin:much>"}, "prompt", "In <lora:moxin:much> the weight must be a number, as in <lora:name:0.8>."),
        ({"prompt": "a cat <lora:moxin:7>"}, "prompt", "In <lora:moxin:7> the weight must be between -2 and 2."),
        ({"prompt": "a cat <lora:moxin:nan>"}, "prompt", "In <lora:moxin:nan> the weight must be between -2 and 2."),
    ],
)
async def test_what_can_not_be_used_is_refused_by_name(server: Running, asked: dict[str, str], field: str, sentence: str) -> None:
    response = await server.client.post("/sd/txt2img", json={"prompt": "a cat", "width": "64", "height": "64", **asked})
    assert response.status_code == 400
    assert sentence in response.text.replace('\\"', '"'), response.text
    assert field in response.text


@pytest.mark.parametrize(("field", "folder"), [("embeddings_model", "embeddings"), ("vae", "vaes")])
async def test_where_none_is_installed_the_refusal_says_where_they_belong(server: Running, field: str, folder: str) -> None:
    body = {"key": server.client.headers["X-API-KEY"], "model_id": "demo", "prompt": "a cat", field: "nope"}
    answer = (await server.stranger.post("/api/v4/dreambooth", json=body)).json()
    assert answer["status"] == "error"
    assert f"There are none: they belong into models/{folder}/." in str(answer)


async def test_a_lora_of_another_family_fails_its_job_by_name_and_the_next_is_drawn(server: Running) -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    install(
        server.settings.models_dir, "xl", {f"{name}.lora_down.weight": torch.ones(4, 2048), f"{name}.lora_up.weight": torch.ones(64, 4)}
    )
    body = {"prompt": "a cat", "width": "64", "height": "64", "num_inference_steps": "2", "lora_model": "xl"}
    answer = (await server.client.post("/sd/txt2img", json=body)).json()
    assert answer["status"] == "failed"
    assert "lora_model: The LoRA 'xl' can't be used with the model 'demo'" in str(answer)
    await server.drawn(**ASKED)
