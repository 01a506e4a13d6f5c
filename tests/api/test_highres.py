"""The high-resolution fix, through the paths clients use."""

from __future__ import annotations

from typing import Any

import pytest
from recipe.detector import detect

from .running import Running
from .test_controlnet import a_picture

LARGE = {
    "model_id": "demo",
    "prompt": "a yellow star on a purple background",
    "width": 768,
    "height": 768,
    "num_inference_steps": 7,
    "seed": 3,
}
SMALL = {**LARGE, "width": 96, "height": 96, "num_inference_steps": 4}


async def post(server: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await server.client.post(path, json=body)).json()
    return answer


async def test_a_picture_of_three_times_the_models_size_shows_what_the_prompt_says(server: Running) -> None:
    """Without the fix the embedded model draws its shapes wrong at this size."""
    answer = await post(server, "/api/v4/dreambooth", {**LARGE, "highres_fix": "yes"})
    picture = await server.picture(answer["output"][0])
    assert picture.size == (768, 768)
    finding = detect(picture)
    assert (finding.background, finding.colour, finding.shape) == ("purple", "yellow", "star")


async def test_it_changes_the_picture_and_leaves_the_next_one_alone(server: Running) -> None:
    answers = [await post(server, "/api/v4/dreambooth", {**SMALL, "highres_fix": asked}) for asked in ("no", "yes", "no", "yes")]
    pictures = [(await server.picture(answer["output"][0])).tobytes() for answer in answers]
    assert pictures[0] == pictures[2] != pictures[1] == pictures[3]


@pytest.mark.parametrize(
    ("path", "changes", "says"),
    [
        ("/api/v4/dreambooth/img2img", {"init_image": "same"}, "drawn from words"),
        ("/api/v4/dreambooth", {"panorama": "yes"}, "only one of them"),
    ],
)
async def test_where_it_means_nothing_it_is_refused_and_nothing_is_recorded(
    server: Running, path: str, changes: dict[str, Any], says: str
) -> None:
    filled = {name: a_picture() if value == "same" else value for name, value in changes.items()}
    answer = await post(server, path, {**SMALL, **filled, "highres_fix": "yes"})
    assert answer["status"] == "error", answer
    assert says in answer["message"]["highres_fix"][0]
    assert (await server.client.get("/jobs")).json()["jobs"] == []
    assert (await post(server, path, {**SMALL, **{name: value for name, value in filled.items() if name == "init_image"}}))[
        "status"
    ] == "success"
