"""What a job costs, and in what steps."""

from __future__ import annotations

import pytest

from sdapi.domain.generation import AnyRequest, ControlNet, Img2Img, Inpaint, SchedulerName, Text2Video, Txt2Img, Upscale
from sdapi.jobs.estimates import cost_of, shape_of


def a_request(**changes: object) -> Txt2Img:
    return Txt2Img.model_validate({"checkpoint": "demo", "prompt": "a cat", "seed": 7, **changes})


@pytest.mark.parametrize("change", [{"steps": 40}, {"width": 1024}, {"samples": 2}, {"steps": 31}])
def test_more_work_costs_more(change: dict[str, object]) -> None:
    assert cost_of(a_request(**change)) > cost_of(a_request())


def test_without_guidance_a_step_costs_half() -> None:
    assert cost_of(a_request(guidance_scale=1)) < 0.6 * cost_of(a_request())


def test_img2img_costs_only_the_steps_it_takes() -> None:
    half = Img2Img.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "inputs/x.png", "strength": 0.5})
    assert cost_of(half) < 0.6 * cost_of(a_request())


EVERY_KIND: tuple[AnyRequest, ...] = (
    a_request(),
    Img2Img.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "x"}),
    Inpaint.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "x", "mask_image": "y"}),
    ControlNet.model_validate({**a_request().model_dump(exclude={"kind"}), "controlnet_models": ("canny",), "control_image": "x"}),
    Text2Video.model_validate(a_request().model_dump(exclude={"kind"})),
    Upscale(init_image="x", width=512, height=512, upscaler="esrgan"),
)


@pytest.mark.parametrize("request_", EVERY_KIND, ids=lambda request: request.kind)
def test_every_kind_costs_something_and_the_sum_of_its_shape(request_: AnyRequest) -> None:
    shape = shape_of(request_)
    assert cost_of(request_) == pytest.approx(shape.rows * (shape.steps * shape.step_cost + shape.end_cost))
    assert cost_of(request_) > 0


def test_inpainting_costs_only_the_steps_it_takes() -> None:
    whole, part = (
        Inpaint.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "x", "mask_image": "y", "strength": strength})
        for strength in (1.0, 0.5)
    )
    assert shape_of(part).steps == shape_of(whole).steps // 2


def test_each_control_net_costs_a_part_of_a_forward_more() -> None:
    def with_nets(*nets: str, **changes: object) -> float:
        fields = {**a_request().model_dump(exclude={"kind"}), "controlnet_models": nets, "control_image": "x", **changes}
        return cost_of(ControlNet.model_validate(fields))

    assert cost_of(a_request()) < with_nets("canny") < with_nets("canny", "depth") < 2 * cost_of(a_request())
    assert with_nets("canny", init_image="x", strength=0.5) < 0.6 * with_nets("canny")


def test_a_film_costs_by_its_length() -> None:
    short, long = (Text2Video.model_validate({**a_request().model_dump(exclude={"kind"}), "frames": frames}) for frames in (8, 32))
    assert cost_of(long) == pytest.approx(4 * cost_of(short))
    assert cost_of(short) > cost_of(a_request())


def test_enlarging_costs_by_the_size_of_the_input() -> None:
    small, large = (Upscale(init_image="x", width=side_px, height=side_px, upscaler="esrgan") for side_px in (256, 512))
    assert cost_of(large) == pytest.approx(4 * cost_of(small))
    assert cost_of(small.model_copy(update={"face_enhance": True})) > cost_of(small)


@pytest.mark.parametrize(
    "change",
    [{"upscale": 2}, {"highres_fix": True}, {"self_attention": True}, {"scheduler": SchedulerName.HEUN}, {"panorama": True, "width": 1024}],
)
def test_what_takes_more_forwards_or_more_afterwards_costs_more(change: dict[str, object]) -> None:
    plain = a_request(**{name: value for name, value in change.items() if name == "width"})
    assert cost_of(a_request(**change)) > 1.1 * cost_of(plain)


def test_the_high_resolution_fix_costs_its_small_drawing_and_six_tenths_of_the_large_one() -> None:
    large = {"width": 1024, "height": 1024, "steps": 20}
    small, plain = shape_of(a_request(steps=20)), shape_of(a_request(**large))
    fixed = shape_of(a_request(**large, highres_fix=True))
    assert fixed.steps == 20 + 12
    assert fixed.steps * fixed.step_cost == pytest.approx(20 * small.step_cost + 12 * plain.step_cost)


def test_only_pictures_of_one_model_and_size_share_forwards() -> None:
    key = shape_of(a_request()).key
    assert shape_of(a_request(steps=7, seed=8, prompt="a dog", guidance_scale=1)).key == key
    assert shape_of(a_request(self_attention=True)).key == key
    other = ({"width": 256}, {"checkpoint": "other"}, {"panorama": True}, {"token_merging": True})
    assert key not in (shape_of(a_request(**change)).key for change in other)


def test_a_panorama_costs_by_its_windows_and_a_perturbed_half_as_much_as_any_other() -> None:
    wide = a_request(width=1024, steps=50)
    assert shape_of(wide.model_copy(update={"panorama": True})).step_cost == pytest.approx(2 * shape_of(wide).step_cost)
    perturbed = shape_of(wide.model_copy(update={"self_attention": True}))
    assert perturbed.step_cost == pytest.approx(1.5 * shape_of(wide).step_cost)
