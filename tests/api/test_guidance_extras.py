"""self_attention, tomesd and panorama through the front door: drawn, told, refused where they mean nothing, and gone with the request."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipe.detector import detect

from tests.pipelines.drawing import greatest_difference

from .running import Running, running, settings_for

TEXT2IMG = "/api/v6/images/text2img"
RED_CIRCLE = {
    "model_id": "demo",
    "prompt": "a red circle on a blue background",
    "width": "96",
    "height": "96",
    "num_inference_steps": "12",
    "seed": 7,
    "tomesd": "no",
}
WIDE = {
    "prompt": "a small red circle on a blue background",
    "width": "256",
    "height": "128",
    "num_inference_steps": "8",
    "scheduler": "EulerAncestralDiscreteScheduler",
}
VISIBLE = 4
"""Of 255. Perturbing the embedded model's middle changes little: it is 2 x 2 places here."""


async def answer_to(server: Running, path: str, **body: object) -> dict[str, Any]:
    key = server.client.headers["X-API-KEY"]
    answer: dict[str, Any] = (await server.stranger.post(path, json={"key": key, **RED_CIRCLE, **body})).json()
    return answer


async def drawn(server: Running, **body: object) -> tuple[Image.Image, dict[str, Any]]:
    """The picture, and what the answer says of it."""
    answer = await answer_to(server, TEXT2IMG, **body)
    assert answer["status"] == "success", answer
    return await server.picture(answer["output"][0]), answer["meta"]


@pytest.mark.parametrize(
    ("asked", "beside"),
    [({"self_attention": "yes"}, {}), ({"tomesd": "yes"}, {}), ({"panorama": "yes"}, WIDE), ({"self_attention": True, "tomesd": 1}, {})],
)
async def test_what_is_asked_for_is_drawn_and_told_and_gone_with_the_request(
    server: Running, asked: dict[str, object], beside: dict[str, object]
) -> None:
    plain, _ = await drawn(server, **beside)
    picture, told = await drawn(server, **beside, **asked)
    again, after = await drawn(server, **beside)

    finding = detect(picture)
    assert (finding.colour, finding.background) == ("red", "blue")
    assert greatest_difference(picture, plain) >= VISIBLE
    assert again.tobytes() == plain.tobytes()
    for name in ("self_attention", "tomesd", "panorama"):
        assert (told[name], after[name]) == ("yes" if name in asked else "no", "no")


async def test_the_sides_of_a_panorama_fit_together(server: Running) -> None:
    striped = {"prompt": "a yellow ring on a striped purple background", "width": "96", "height": "64", "seed": 3}
    (panorama, _), (plain, _) = await drawn(server, **striped, panorama="yes"), await drawn(server, **striped)

    def seam_and_most(picture: Image.Image) -> tuple[float, float]:
        pixels = np.asarray(picture, dtype=np.float32)
        *inside, seam = np.abs(np.roll(pixels, -1, axis=1) - pixels).mean(axis=(0, 2))
        return float(seam), float(max(inside))

    seam, most = seam_and_most(panorama)
    assert seam <= 1.2 * most
    seam, most = seam_and_most(plain)
    assert seam > 1.3 * most


@pytest.mark.parametrize("path", ["/api/v6/images/img2img", "/api/v6/images/inpaint", "/api/v5/controlnet"])
async def test_a_panorama_that_starts_from_a_picture_is_refused_before_it_is_recorded(server: Running, path: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (96, 96), "red").save(stream, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    answer = await answer_to(server, path, panorama="yes", init_image=picture, mask_image=picture, controlnet_model="canny")
    assert answer["status"] == "error"
    assert "drawn from words alone" in str(answer), answer
    assert "panorama" in str(answer)
    assert "id" not in answer


async def test_the_operator_may_have_tokens_merged_where_the_request_says_nothing(tmp_path: Path, server: Running) -> None:
    plain, _ = await drawn(server)
    merged, _ = await drawn(server, tomesd="yes")
    async with running(settings_for(tmp_path / "quick", tomesd_by_default=True)) as quick:
        unsaid, told = await drawn(quick, tomesd=None)
        refused, told_no = await drawn(quick, tomesd="no")
    assert (told["tomesd"], told_no["tomesd"]) == ("yes", "no")
    assert greatest_difference(unsaid, merged) == 0
    assert greatest_difference(refused, plain) == 0
