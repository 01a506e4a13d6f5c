"""The hosted calls draw with the sampler that is asked for, and say so in the client's words."""

from __future__ import annotations

from typing import Any

import pytest
from recipe.detector import detect

from .running import Running

CALL = "/api/v4/dreambooth"
BODY = {"model_id": "demo", "prompt": "a red circle on a blue background", "width": 128, "height": 128, "seed": 3}


async def drawn(server: Running, **changes: object) -> dict[str, Any]:
    return await server.drawn(CALL, **{**BODY, "num_inference_steps": 21, **changes})


@pytest.mark.parametrize(
    ("asked", "told", "in_file"),
    [
        ({"scheduler": "KarrasVeScheduler"}, "KarrasVeScheduler", "DPM2 a Karras"),
        ({"scheduler": "IPNDMScheduler", "use_karras_sigmas": "no"}, "IPNDMScheduler", "LMS"),
        ({"scheduler": "LCMScheduler"}, "LCMScheduler", "LCM"),
        ({"scheduler": "dpm++ 2m karras"}, "DPM++ 2M Karras", "DPM++ 2M Karras"),
        ({"scheduler": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "DPMSolverMultistepScheduler", "DPM++ 2M SDE"),
        ({"sampling_method": "euler_a"}, "Euler a", "Euler a"),
    ],
)
async def test_the_sampler_that_was_asked_for_draws_and_is_told(server: Running, asked: dict[str, str], told: str, in_file: str) -> None:
    answer = await drawn(server, **asked)
    assert answer["meta"]["scheduler"] == told
    picture = await server.picture(answer["output"][0])
    assert f"Sampler: {in_file}, " in picture.info["parameters"]
    finding = detect(picture)
    assert (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")


async def test_the_algorithm_and_the_spacing_reach_the_picture(server: Running) -> None:
    plain = {"scheduler": "DPMSolverMultistepScheduler", "width": 64, "height": 64, "num_inference_steps": 5}
    asked: list[dict[str, object]] = [{}, {"algorithm_type": "none"}, {"use_karras_sigmas": "yes"}, {"algorithm_type": "sde-dpmsolver++"}]
    pictures = []
    for changes in asked:
        answer = await drawn(server, **plain, **changes)
        pictures.append((await server.picture(answer["output"][0])).tobytes())
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3
    named = await drawn(server, **{**plain, "scheduler": "DPM++ 2M Karras"})
    assert (await server.picture(named["output"][0])).tobytes() == pictures[2]


async def test_an_unknown_sampler_or_algorithm_is_refused_by_its_field(server: Running) -> None:
    for field in ("scheduler", "algorithm_type"):
        answer = (await server.client.post(CALL, json=BODY | {field: "magic"})).json()
        assert answer["status"] == "error"
        assert f"The {field} must be one of " in str(answer)
    assert (await drawn(server, num_inference_steps=2))["status"] == "success"
