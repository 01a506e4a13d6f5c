"""What each family honours: complete, and told in sentences."""

from __future__ import annotations

import pytest

from sdapi.domain.families import (
    ALL_FAMILIES,
    DEFAULT_GUIDANCE,
    FAMILY_NAMES,
    FILM_FAMILIES,
    PARAMETERS,
    WHOLE_FAMILIES,
    Drawing,
    Family,
    refusal,
    suited,
)
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, SchedulerName, Txt2Img

COMMON = {"checkpoint": "m", "prompt": "a cat", "seed": 1}
PICTURES = {"init_image": "a.png", "mask_image": "b.png"}
ASKED: dict[str, Drawing] = {
    "init_image": Img2Img.model_validate({**COMMON, "init_image": "a.png"}),
    "mask_image": Inpaint.model_validate({**COMMON, **PICTURES}),
    "controlnet_model": ControlNet.model_validate({**COMMON, "controlnet_models": ["canny"], "control_image": "a.png"}),
    "lora_model": Txt2Img.model_validate({**COMMON, "loras": [{"id": "moxin"}]}),
    "embeddings_model": Txt2Img.model_validate({**COMMON, "embeddings": ["moody"]}),
    "vae": Txt2Img.model_validate({**COMMON, "vae": "dark"}),
    "clip_skip": Txt2Img.model_validate({**COMMON, "clip_skip": 2}),
    "panorama": Txt2Img.model_validate({**COMMON, "panorama": True}),
    "self_attention": Txt2Img.model_validate({**COMMON, "self_attention": True}),
    "highres_fix": Txt2Img.model_validate({**COMMON, "highres_fix": True}),
}


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_refusal_names_its_field_and_what_no_family_refuses_is_drawn(family: Family) -> None:
    assert refusal(family, Txt2Img.model_validate(COMMON)) is None
    for parameter in PARAMETERS:
        if parameter.field in ASKED:
            refused = refusal(family, ASKED[parameter.field])
            assert (refused is not None) == (parameter.honour(family) == "refused"), parameter.field
            if refused is not None:
                assert refused[0] == parameter.field
                assert FAMILY_NAMES[family] in refused[1]
        else:
            assert parameter.honour(family) != "refused", f"{parameter.field} is refused, and nothing here asks for it"


def test_every_family_has_a_name_and_a_guidance() -> None:
    assert set(FAMILY_NAMES) == set(DEFAULT_GUIDANCE) == {*ALL_FAMILIES, *FILM_FAMILIES}


def test_a_named_sampler_is_taken_out_where_the_model_keeps_its_own() -> None:
    request = Txt2Img.model_validate({**COMMON, "scheduler": SchedulerName.DDIM, "use_karras_sigmas": True})
    for family in ALL_FAMILIES:
        kept = suited(family, request)
        assert kept == request.model_copy(update={"scheduler": None, "use_karras_sigmas": None} if family in WHOLE_FAMILIES else {})
