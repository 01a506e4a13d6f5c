"""A hundred requests with whatever may be asked for, several at once, a third of them failing or cancelled, leave nothing behind."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, SchedulerName, Txt2Img
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped, Trouble

from . import control_nets, lora_files
from .device import Device, Drawing, Wish, open_device
from .drawing import a_request, demo_parts
from .upscaler_nets import compact_tensors

REQUESTS = 100
AT_ONCE = 6

ADDITIONS: tuple[dict[str, object], ...] = (
    {"loras": [{"id": "first", "strength": 0.7}]},
    {"loras": [{"id": "second", "strength": -0.4}, {"id": "first", "strength": 0.5}]},
    {"embeddings": ["moody"]},
    {"prompt": "a (moody:1.3) circle on a [blue] background"},
    {"vae": "dark"},
    {"clip_skip": 2},
)
SWITCHES: tuple[dict[str, object], ...] = (
    {"self_attention": True},
    {"token_merging": True},
    {"highres_fix": True},
    {"panorama": True},
    {"upscale": 2, "upscaler": "small"},
)
HOPELESS: tuple[dict[str, object], ...] = (
    {"loras": [{"id": "gone"}]},
    {"loras": [{"id": "wide"}]},
    {"embeddings": ["wide"]},
    {"vae": "broken"},
    {"checkpoint": "gone"},
    {"controlnet_models": ["gone"]},
)
"""What makes a request fail, each in another place."""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    for seed, name in enumerate(("first", "second"), start=1):
        lora_files.install(tmp_path, name, lora_files.kohya(lora_files.a_lora(seed)))
        control_nets.install(tmp_path, f"net{seed}", seed=seed)
    name = f"lora_unet_{lora_files.LINEAR.replace('.', '_')}"
    lora_files.install(tmp_path, "wide", {f"{name}.lora_down.weight": torch.ones(4, 2048), f"{name}.lora_up.weight": torch.ones(64, 4)})
    for folder in ("embeddings", "upscalers", "checkpoints"):
        (tmp_path / folder).mkdir()
    for word, width in (("moody", 64), ("wide", 768)):
        vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(5))
        save_file({"emb_params": vectors}, tmp_path / "embeddings" / f"{word}.safetensors")
    save_file(compact_tensors(scale=2), tmp_path / "upscalers" / "small.safetensors")
    for vae_name, value in (("dark", -0.3), ("broken", torch.nan)):
        vae = copy.deepcopy(demo_parts().vae)
        vae.decoder.conv_out.bias.data += value
        vae.save_pretrained(tmp_path / "vaes" / vae_name)
    # So much that the model stays, and what is added to it comes and goes.
    with open_device(tmp_path, cache_bytes=demo_parts().bytes + 2**21, at_once=AT_ONCE) as opened:
        yield opened


def a_mixture(chance: random.Random) -> Wish:
    """A request with a few of everything, which may be drawn, fail or be cancelled."""
    values: dict[str, object] = {
        "seed": chance.randrange(2**32),
        "steps": chance.randint(2, 4),
        "width": chance.choice((64, 96, 128)),
        "height": chance.choice((64, 128)),
        "samples": chance.choice((1, 1, 1, 2)),
        "guidance_scale": chance.choice((1, 3, 7.5)),
        "scheduler": chance.choice([None, *SchedulerName]),
        "use_karras_sigmas": chance.choice((None, True)),
        "negative_prompt": chance.choice(("", "a grey ring")),
    }
    for addition in chance.sample(ADDITIONS, chance.randint(0, 3)):
        values |= addition
    if chance.random() < 0.4:
        values |= chance.choice(SWITCHES)
    must_fail = chance.random() < 0.16
    hopeless = chance.choice(HOPELESS) if must_fail else {}
    kinds: list[type[Drawing]] = [Txt2Img, Img2Img, Inpaint, ControlNet]
    if "highres_fix" in values:
        kinds = [Txt2Img, ControlNet]
    if "panorama" in values:
        kinds = [Txt2Img]
    kind = ControlNet if "controlnet_models" in hopeless else chance.choice(kinds)
    match kind.__name__:
        case "Img2Img":
            values |= {"init_image": "x", "strength": chance.choice((0.6, 1.0))}
        case "Inpaint":
            values |= {"init_image": "x", "mask_image": "y", "strength": chance.choice((0.6, 1.0))}
        case "ControlNet":
            nets = chance.choice((["net1"], ["net2"], ["net1", "net2"]))
            maps = chance.choice((None, "canny", "scribble", "softedge", "lineart", "mlsd", "shuffle", "tile", "qrcode"))
            scales = [chance.choice((0.5, 1.0))] * len(nets)
            values |= {"controlnet_models": nets, "controlnet_type": maps, "auto_hint": maps is not None, "control_image": "x"}
            values |= {"conditioning_scales": scales, "guess_mode": chance.random() < 0.2}
    request = kind.model_validate({**a_request().model_dump(exclude={"kind"}), **values, **hopeless})
    cancelled_at = chance.choice((0, 1, 2)) if not must_fail and chance.random() < 0.2 else None
    return Wish(request, must_fail, cancelled_at)


def first_requests() -> list[Wish]:
    """A plain one, and one with a little of everything."""
    net = {"controlnet_models": ["net1"], "controlnet_type": "canny", "control_image": "x", "loras": [{"id": "first"}], "vae": "dark"}
    led = ControlNet.model_validate({**a_request(seed=8).model_dump(exclude={"kind"}), **net})
    return [Wish(a_request()), Wish(led)]


def pixels(asked: Wish) -> list[bytes]:
    assert isinstance(asked.result, Pictures), asked
    return [image.tobytes() for image in asked.result.images]


def test_after_a_hundred_requests_of_all_kinds_the_first_are_drawn_again_to_the_bit(device: Device) -> None:
    before = first_requests()
    for one in before:
        device.draw(one)
    chance = random.Random(20)
    mixture = [a_mixture(chance) for _ in range(REQUESTS)]
    device.draw(*mixture)
    for one in mixture:
        if one.must_fail:
            assert isinstance(one.result, Trouble), one.request
        elif one.cancelled_at_step is None:
            assert isinstance(one.result, Pictures), (one.result, one.request)
    ends = Counter(type(one.result) for one in mixture)
    assert ends[Trouble] >= 12
    assert ends[Stopped] >= 12
    for one, first in zip(first_requests(), before, strict=True):
        device.draw(one)
        assert pixels(one) == pixels(first)
