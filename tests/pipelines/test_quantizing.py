"""Weights in eight bits: the same pictures in less memory, or the model as it was."""

from __future__ import annotations

import logging
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import Scene
from torch import nn

from benchmarks.formats import psnr_db
from sdapi.catalog import Assets, Catalog, embedded_assets_dir, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import ControlNet, Txt2Img
from sdapi.domain.quantization import EightBits
from sdapi.pipelines.compiling.compiler import Compiler
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.families.whole import WholeModel
from sdapi.pipelines.forwards.joined_projections import joined_weight, lay_together
from sdapi.pipelines.forwards.unet_forward import ForwardOptions, forwards_of
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint, load_controlnet
from sdapi.pipelines.loading.whole_loader import WholeComponents, load_whole
from sdapi.pipelines.memory.host_copy import can_be_copied, weights_of
from sdapi.pipelines.quantizing.eight_bits import Way, large_layers, quantized, ways
from sdapi.pipelines.quantizing.quantizer import Quantizer, relative_error
from sdapi.pipelines.quantizing.stored_weights import is_quantized, stored_bytes
from sdapi.pipelines.quantizing.way_choice import in_order, measured_seconds
from sdapi.pipelines.scheduling.tickets import Pictures

from .device import Device, Wish
from .drawing import Studio, a_request, demo_parts, greatest_difference
from .tiny_whole import write_whole_folder

pytest.importorskip("torchao", reason="torchao is not installed: pip install '.[quantized]'")

CPU = torch.device("cpu")
SCENES = (("red", "circle", "blue"), ("green", "square", "white"), ("yellow", "triangle", "black"))
ALIKE_DB = {"int8": 45.0, "fp8": 40.0}
"""Between a picture and the one of the unchanged model; 40 dB is a difference of 2.5 of 255 (measured: 58 and 49 at least)."""
CLOSENESS = 2


def the_demo(dtype: torch.dtype = torch.float32) -> UnetComponents:
    """Loaded anew, because its weights are going to change."""
    return load_checkpoint(a_catalog().get("demo"), device=CPU, dtype=dtype, vae_dtype=torch.float32)


def a_catalog() -> Catalog:
    return Catalog(Path("nowhere"), aliases={}, embedded=embedded_model_dir())


@cache
def in_eight_bits(bits: EightBits) -> UnetComponents:
    """The embedded model; nobody changes it any more."""
    return Quantizer(bits).unet("demo", the_demo())


def scenes() -> list[Txt2Img]:
    return [
        a_request(prompt=f"a {colour} {shape} on a {background} background", seed=seed, width=128, height=128, steps=16)
        for seed, (colour, shape, background) in enumerate(SCENES)
    ]


def drawn(parts: UnetComponents, *requests: Any, assets: Assets | None = None, **studio: Any) -> list[Image.Image]:
    """Together."""
    room = Studio({"demo": UnetModel("demo", parts, assets)}, **studio)
    asked = [room.ask(request) for request in requests]
    room.draw()
    return [one.image for one in asked]


@cache
def expected_scenes() -> list[Image.Image]:
    return drawn(demo_parts(), *scenes())


def distance_db(one: Image.Image, other: Image.Image) -> float:
    return psnr_db(np.asarray(one, np.float64) - np.asarray(other, np.float64))


@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_pictures_are_those_of_the_unchanged_model(bits: EightBits) -> None:
    parts = in_eight_bits(bits)
    assert is_quantized(parts.unet)
    for picture, expected, (colour, shape, background) in zip(drawn(parts, *scenes()), expected_scenes(), SCENES, strict=True):
        assert ALIKE_DB[bits] < distance_db(picture, expected) < 99, "alike, and yet drawn with other weights"
        found = detect(picture)
        assert (found.colour, found.shape, found.background) == (colour, shape, background)


@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_a_quarter_of_the_bytes_is_left_of_large_layers_and_the_model_says_so(bits: EightBits) -> None:
    parts, before = in_eight_bits(bits), demo_parts()
    numbers = sum(layer.weight.numel() for layer in large_layers(before.unet).values())
    assert numbers > 0.2 * sum(weight.numel() for weight in before.unet.parameters()), "else nothing is shown"
    saved = before.bytes - parts.bytes
    assert 0.7 * 4 * numbers < saved < 0.75 * 4 * numbers, "one byte in the place of four, and a scale for each row"
    assert parts.bytes == sum(stored_bytes(network) for network in parts.networks)
    assert UnetModel("demo", parts).size_bytes == parts.bytes


def test_a_picture_drawn_in_company_is_the_one_drawn_alone() -> None:
    first, *others = scenes()
    together = drawn(in_eight_bits("int8"), first, *others)[0]
    assert greatest_difference(together, drawn(in_eight_bits("int8"), first)[0]) <= CLOSENESS


def test_loras_and_control_nets_work_on_weights_in_eight_bits() -> None:
    folder = embedded_assets_dir()
    assert folder is not None
    assets = Assets(Path("nowhere"), embedded=folder)
    night = a_request(loras=[{"id": "demo-night"}], width=128, height=128, steps=8)
    plain, at_night = (
        drawn(in_eight_bits("int8"), request, assets=assets)[0] for request in (night.model_copy(update={"loras": ()}), night)
    )
    assert distance_db(at_night, drawn(demo_parts(), night, assets=assets)[0]) > ALIKE_DB["int8"]
    assert greatest_difference(at_night, plain) > 50, "the LoRA is seen"

    net = ControlNetwork("demo-canny", load_controlnet(assets.get("controlnet", "demo-canny"), device=CPU, dtype=torch.float32))
    values = a_request(width=128, height=128, steps=8).model_dump(exclude={"kind"})
    led = ControlNet.model_validate(
        {**values, "controlnet_models": ("demo-canny",), "init_image": "inputs/x.png", "controlnet_type": "canny"}
    )
    shown = draw(Scene(shape="square", colour="green", background="white"), 128, 128)
    pictures = []
    for parts in (in_eight_bits("int8"), demo_parts()):
        room = Studio({"demo": UnetModel("demo", parts, assets)}, control_nets={"demo-canny": net})
        asked = room.ask(led, shown)
        room.draw()
        pictures.append(asked.image)
    assert distance_db(*pictures) > ALIKE_DB["int8"]
    assert greatest_difference(pictures[0], plain) > 50, "the net is seen"


def test_a_loop_that_was_asked_to_says_which_models_are_in_eight_bits() -> None:
    options = DeviceOptions("cpu", "float32", threads=1, max_batch_rows=4, model_cache_bytes=2**30, quantize="int8")
    loop = open_loop(a_catalog(), Assets(Path("nowhere")), options)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        wish = Wish(scenes()[0])
        Device(loop, at_once=1).draw(wish)
        state = loop.models
    finally:
        loop.stop()
        thread.join()
    assert (set(state.quantized), state.resident_bytes) == ({"demo"}, in_eight_bits("int8").bytes)
    assert isinstance(wish.result, Pictures)
    assert greatest_difference(wish.result.images[0], drawn(in_eight_bits("int8"), scenes()[0])[0]) <= CLOSENESS


@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_a_model_that_would_say_something_else_stays_as_it_was_to_the_bit(bits: EightBits, caplog: pytest.LogCaptureFixture) -> None:
    before = the_demo()
    weights = {name: weight.data_ptr() for name, weight in before.unet.named_parameters()}
    with caplog.at_level(logging.WARNING):
        after = Quantizer(bits, unet_limit=1e-5).unet("demo", before)
    assert {name: weight.data_ptr() for name, weight in after.unet.named_parameters()} == weights
    assert (after.bytes, is_quantized(after.unet)) == (before.bytes, False)
    assert greatest_difference(drawn(after, a_request())[0], drawn(demo_parts(), a_request())[0]) == 0
    (told,) = [vars(record) for record in caplog.records if record.name.endswith("quantizer")]
    assert told["model"] == "demo"
    assert "says something else" in told["reason"]


def test_without_torchao_models_are_drawn_with_as_they_are_and_the_log_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    parts = Quantizer("int8").unet("demo", the_demo())
    assert not is_quantized(parts.unet)
    assert "pip install '.[quantized]'" in vars(caplog.records[-1])["reason"]


def test_what_breaks_midway_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def run_out(weight: torch.Tensor, way: Way) -> nn.Parameter:
        if len(made) == 5:
            raise torch.OutOfMemoryError("no room")
        made.append(weight)
        return quantized(weight, way)

    monkeypatch.setattr("sdapi.pipelines.quantizing.quantizer.quantized", run_out)
    parts = Quantizer("int8").unet("demo", the_demo())
    assert len(made) == 5
    assert not is_quantized(parts.unet)
    assert parts.bytes == demo_parts().bytes


def test_another_copy_of_the_model_and_torchs_compiler_know_nothing_of_it() -> None:
    import torch._inductor.config as compiler

    before = compiler.save_config_portable()
    in_eight_bits("int8")
    assert compiler.save_config_portable() == before
    assert greatest_difference(drawn(the_demo(), a_request())[0], drawn(demo_parts(), a_request())[0]) == 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WholeComponents]:
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for family in ("flux", "z_image"):
        write_whole_folder(folder / "checkpoints" / family, family)
        checkpoint = Catalog(folder, aliases={}, embedded=None).get(family)
        found[family] = load_whole(checkpoint, device=CPU, dtype=torch.float32, is_dtype_chosen=True)
    return found


@pytest.mark.parametrize("family", ["flux", "z_image"])
def test_denoisers_of_whole_pipelines_draw_the_same_in_eight_bits(tiny: dict[str, WholeComponents], family: Any) -> None:
    def picture(parts: WholeComponents) -> Image.Image:
        room = Studio({"demo": WholeModel("demo", family, parts)})
        asked = room.ask(a_request(prompt="a red circle", guidance_scale=4, steps=4))
        room.draw()
        return asked.image

    expected = picture(tiny[family])
    parts = Quantizer("int8").whole("demo", family, tiny[family])
    assert is_quantized(parts.denoiser)
    assert not any(is_quantized(network) for network in parts.networks if network is not parts.denoiser), "words are read as ever"
    assert parts.bytes == sum(stored_bytes(network) for network in parts.networks) < tiny[family].bytes
    assert WholeModel("demo", family, parts).is_quantized
    assert distance_db(picture(parts), expected) > 40
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sdapi-whole")], "the probe's pipeline has ended"


def test_int8_does_not_overflow_in_float16() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 1280, generator=generator) / 36
    inputs = torch.randn(8, 1280, generator=generator) * 300
    expected = inputs @ weight.T
    said = nn.functional.linear(inputs.half(), quantized(weight.half(), Way("int8"))).float()
    assert relative_error([expected], [said], [float(expected.norm())]) < 0.01


def test_what_is_in_eight_bits_is_neither_compiled_nor_joined_and_leaves_the_device_by_what_it_is_made_of(tmp_path: Path) -> None:
    unet = in_eight_bits("int8").unet
    options = ForwardOptions(compiler=Compiler(tmp_path))
    assert forwards_of(demo_parts().unet, options)._compiled is not None
    assert forwards_of(unet, options)._compiled is None
    attention = next(module for module in unet.modules() if isinstance(module, Attention))
    lay_together(attention)
    assert joined_weight(attention) is None
    assert is_quantized(attention)
    assert can_be_copied(weights_of([unet]), CPU)
    assert sum(weight.nbytes for weight in weights_of([unet])) == stored_bytes(unet)


def test_inputs_go_to_eight_bits_only_where_that_is_faster_by_far() -> None:
    plain, both = Way("int8"), Way("int8", has_inputs_too=True)
    weight = torch.zeros(1024, 1024)
    for both_s, expected in ((0.5, [both, plain]), (0.9, [plain])):
        took = {plain: 1.0, both: both_s}
        assert in_order([both, plain], weight, lambda _, way, took=took: took[way]) == expected  # type: ignore[misc]

    def unable(_: torch.Tensor, way: Way) -> float:
        if way == both:
            raise RuntimeError("no kernel")
        return 1.0

    assert in_order([both, plain], weight, unable) == [plain]
    assert in_order([both, plain], torch.zeros(64, 64), lambda *_: 1 / 0) == [plain], "nothing is measured of small layers"
    assert measured_seconds(torch.zeros(64, 64), both) > 0


def test_a_picture_that_must_always_be_the_same_depends_on_no_measurement() -> None:
    def measured(*_: object) -> float:
        raise AssertionError("nothing is to be measured")

    assert is_quantized(Quantizer("int8", is_deterministic=True, seconds=measured).unet("demo", the_demo()).unet)


def test_only_devices_that_multiply_float8_take_inputs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    plain, both = Way("fp8"), Way("fp8", has_inputs_too=True)
    assert ways("fp8", device=CPU, dtype=torch.bfloat16) == (plain,)
    for capability, dtype, expected in (
        ((9, 0), torch.bfloat16, (both, plain)),
        ((8, 9), torch.bfloat16, (both, plain)),
        ((8, 6), torch.bfloat16, (plain,)),
        ((9, 0), torch.float16, (plain,)),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert ways("fp8", device=cuda, dtype=dtype) == expected
