"""LoRAs change the rows that ask for them, as if they were merged into the model, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import Assets
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference
from .lora_files import (
    CONVOLUTION,
    LINEAR,
    METADATA_OF_PEFT,
    RANK,
    STRIDED,
    TEXT_PATHS,
    RandomLora,
    a_lora,
    install,
    kohya,
    kohya_with_ldm_names,
    merged,
    old_diffusers,
    peft,
)

CLOSENESS = 2
"""Of 255. Adding beside the weights rounds otherwise than adding into them."""
VISIBLE = 20


class WatchedModel(UnetModel):
    """The real model, keeping a tally of its forwards."""

    def __init__(self, assets: Assets | None = None, parts: UnetComponents | None = None) -> None:
        super().__init__("demo", parts or demo_parts(), assets)
        self.batches: list[int] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append(len(rows))
        return super().predict(rows)


def using(*uses: tuple[str, float], **changes: object) -> Txt2Img:
    return a_request(loras=[{"id": name, "strength": strength} for name, strength in uses], **changes)


def drawn(model: UnetModel, *requests: Txt2Img) -> list[Image.Image]:
    """The requests' pictures, drawn together."""
    studio = Studio({"demo": model})
    asked = [studio.ask(request) for request in requests]
    studio.draw()
    return [one.image for one in asked]


def refusal(model: UnetModel, request: Txt2Img) -> str:
    """What the client of a request that can't be drawn is told, while its neighbour is drawn as ever."""
    studio = Studio({"demo": model})
    refused, neighbour = studio.ask(request), studio.ask(a_request())
    studio.draw()
    (result,) = refused.results
    assert isinstance(result, Trouble)
    assert isinstance(neighbour.results[0], Pictures)
    assert greatest_difference(neighbour.image, draw_alone(a_request())) == 0
    return result.reason


@pytest.mark.parametrize("strength", [1.0, 0.5, -0.5])
def test_a_lora_draws_what_a_model_draws_into_which_it_was_merged(tmp_path: Path, strength: float) -> None:
    lora = a_lora()
    install(tmp_path, "moxin", kohya(lora))
    (picture,) = drawn(WatchedModel(Assets(tmp_path)), using(("moxin", strength)))
    (expected,) = drawn(WatchedModel(parts=merged(lora, strength)), a_request())
    assert greatest_difference(picture, expected) <= CLOSENESS
    assert greatest_difference(picture, draw_alone(a_request())) >= VISIBLE, "the LoRA is seen at all"


@pytest.mark.parametrize("write", [peft, old_diffusers, kohya_with_ldm_names])
def test_every_way_of_naming_the_modules_means_the_same(tmp_path: Path, write: Callable[[RandomLora], dict[str, Tensor]]) -> None:
    lora = a_lora()
    install(tmp_path, "ours", kohya(lora))
    install(tmp_path, "theirs", write(lora), METADATA_OF_PEFT if write is peft else None)
    model = WatchedModel(Assets(tmp_path))
    (ours,) = drawn(model, using(("ours", 1.0)))
    (theirs,) = drawn(model, using(("theirs", 1.0)))
    assert greatest_difference(ours, theirs) <= CLOSENESS


@pytest.mark.parametrize("path", [*a_lora().unet, *TEXT_PATHS])
def test_each_kind_of_module_counts(tmp_path: Path, path: str) -> None:
    text = (path,) if path in TEXT_PATHS else ()
    lora = a_lora(unet=() if text else (path,), text=text, size=4.0)
    install(tmp_path, "narrow", kohya(lora))
    (picture,) = drawn(WatchedModel(Assets(tmp_path)), using(("narrow", 1.0)))
    (expected,) = drawn(WatchedModel(parts=merged(lora, 1.0)), a_request())
    assert greatest_difference(picture, expected) <= CLOSENESS
    assert greatest_difference(picture, draw_alone(a_request())) > 2 * CLOSENESS


@pytest.mark.parametrize("path", [CONVOLUTION, STRIDED])
def test_a_convolution_in_three_parts_is_their_product(tmp_path: Path, path: str) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = demo_parts().unet.get_submodule(path).weight
    outputs, inputs = weight.shape[:2]
    down, mid, up = (
        torch.randn(shape, generator=generator) * 0.3 for shape in ((RANK, inputs, 1, 1), (RANK, RANK, 3, 3), (outputs, RANK, 1, 1))
    )
    name = f"lora_unet_{path.replace('.', '_')}"
    install(tmp_path, "tucker", {f"{name}.lora_down.weight": down, f"{name}.lora_mid.weight": mid, f"{name}.lora_up.weight": up})
    (picture,) = drawn(WatchedModel(Assets(tmp_path)), using(("tucker", 1.0)))
    product = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    parts = merged(RandomLora({}, {}), 1.0)
    parts.unet.get_submodule(path).weight.data += product
    (expected,) = drawn(WatchedModel(parts=parts), a_request())
    assert greatest_difference(picture, expected) <= CLOSENESS
    assert greatest_difference(picture, draw_alone(a_request())) > 2 * CLOSENESS


def test_several_loras_add_up(tmp_path: Path) -> None:
    first, second = a_lora(1), a_lora(2)
    install(tmp_path, "first", kohya(first))
    install(tmp_path, "second", kohya(second))
    (picture,) = drawn(WatchedModel(Assets(tmp_path)), using(("first", 0.7), ("second", 0.4)))
    (expected,) = drawn(WatchedModel(parts=merged(second, 0.4, merged(first, 0.7))), a_request())
    assert greatest_difference(picture, expected) <= CLOSENESS


def test_rows_with_different_loras_share_forwards_and_none_can_tell(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        text = TEXT_PATHS if number == 3 else ()
        install(tmp_path, f"lora{number}", kohya(a_lora(number, text=text)))
    requests = [
        using(("lora1", 1.0), seed=1),
        using(seed=2),
        using(("lora2", 0.8), ("lora1", -0.3), seed=3, guidance_scale=1),
        using(("lora3", 0.6), seed=4, steps=6),
        using(("lora1", 0.4), seed=5, samples=2),
    ]
    together = WatchedModel(Assets(tmp_path))
    pictures = drawn(together, *requests)
    assert max(together.batches) >= 5, "the rows did share forwards"
    for picture, request in zip(pictures, requests, strict=True):
        (alone,) = drawn(WatchedModel(Assets(tmp_path)), request)
        assert greatest_difference(picture, alone) <= CLOSENESS, request.loras


def test_a_lora_leaves_nothing_behind(tmp_path: Path) -> None:
    install(tmp_path, "moxin", kohya(a_lora()))
    model = WatchedModel(Assets(tmp_path))
    before = {name: tensor.clone() for name, tensor in demo_parts().unet.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in (*demo_parts().unet.modules(), *demo_parts().text_encoder.modules())]
    (first,) = drawn(model, a_request())
    drawn(model, using(("moxin", 1.0)))
    (again,) = drawn(model, a_request())
    assert first.tobytes() == again.tobytes()
    assert all(torch.equal(tensor, before[name]) for name, tensor in demo_parts().unet.state_dict().items())
    # torch has no public way to ask; transformers leaves hooks of its own where layers were once asked for.
    assert hooks == [len(module._forward_hooks) for module in (*demo_parts().unet.modules(), *demo_parts().text_encoder.modules())]


def test_strength_0_is_the_plain_picture_to_the_byte(tmp_path: Path) -> None:
    install(tmp_path, "moxin", kohya(a_lora()))
    (picture,) = drawn(WatchedModel(Assets(tmp_path)), using(("moxin", 0.0)))
    assert picture.tobytes() == draw_alone(a_request()).tobytes()


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    clock = iter(range(0, 10_000, 5))
    model = WatchedModel(Assets(tmp_path, clock=lambda: float(next(clock))))
    install(tmp_path, "moxin", kohya(a_lora(1)))
    (old,) = drawn(model, using(("moxin", 1.0)))
    install(tmp_path, "moxin", kohya(a_lora(2)))
    (new,) = drawn(model, using(("moxin", 1.0)))
    (expected,) = drawn(WatchedModel(parts=merged(a_lora(2), 1.0)), a_request())
    assert greatest_difference(new, expected) <= CLOSENESS
    assert greatest_difference(new, old) > CLOSENESS


def test_what_belongs_to_no_module_is_left_out_and_the_rest_works(tmp_path: Path) -> None:
    lora = a_lora()
    more = {"lora_unet_no_such_block.lora_down.weight": torch.ones(2, 2), "lora_te2_text_model_x.lora_up.weight": torch.ones(2, 2)}
    install(tmp_path, "moxin", kohya(lora) | more)
    (picture,) = drawn(WatchedModel(Assets(tmp_path)), using(("moxin", 1.0)))
    (expected,) = drawn(WatchedModel(parts=merged(lora, 1.0)), a_request())
    assert greatest_difference(picture, expected) <= CLOSENESS


def test_loras_are_forgotten_when_asked_and_the_bytes_are_told(tmp_path: Path) -> None:
    tensors = kohya(a_lora(text=()))
    install(tmp_path, "moxin", tensors)
    model = WatchedModel(Assets(tmp_path))
    drawn(model, using(("moxin", 1.0)))
    weights = sum(tensor.nbytes for name, tensor in tensors.items() if not name.endswith(".alpha"))
    assert model.clear_caches() >= weights
    assert model.clear_caches() == 0


_NAME = f"lora_unet_{LINEAR.replace('.', '_')}"
_PLAIN = {f"{_NAME}.lora_down.weight": torch.ones(4, 64), f"{_NAME}.lora_up.weight": torch.ones(64, 4)}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (_PLAIN | {f"{_NAME}.lora_down.weight": torch.ones(4, 2048)}, "[4, 2048], where the model takes [4, 64]"),
        ({f"{_NAME}.lora_down.weight": torch.ones(4, 64)}, "Half of its weights"),
        (_PLAIN | {f"{_NAME}.lora_up.weight": torch.full((64, 4), torch.nan)}, "not numbers"),
        (_PLAIN | {f"{_NAME}.dora_scale": torch.ones(64, 1)}, "DoRA"),
        ({f"{_NAME}.hada_w1_a": torch.ones(4, 4)}, "LoHa"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(4, 4)}, "another family"),
        ({f"{_NAME}.lora_down.weight": torch.tensor(1.0), f"{_NAME}.lora_up.weight": torch.tensor(1.0)}, "shape"),
    ],
)
def test_a_lora_that_does_not_fit_fails_its_job_in_a_sentence(tmp_path: Path, tensors: dict[str, Tensor], sentence: str) -> None:
    install(tmp_path, "wrong", tensors)
    reason = refusal(WatchedModel(Assets(tmp_path)), using(("wrong", 1.0)))
    assert reason.startswith("lora_model: The LoRA 'wrong' can't be used with the model 'demo': ")
    assert sentence in reason


def test_a_lora_that_was_removed_meanwhile_fails_its_job_in_a_sentence(tmp_path: Path) -> None:
    assert refusal(WatchedModel(Assets(tmp_path)), using(("gone", 1.0))) == "lora_model: There is no LoRA named 'gone' on this server."


def test_a_file_that_was_damaged_meanwhile_fails_its_job_in_a_sentence(tmp_path: Path) -> None:
    file = install(tmp_path, "moxin", kohya(a_lora()))
    assets = Assets(tmp_path, clock=lambda: 0.0)
    assets.refresh()
    file.write_bytes(b"\x08" + file.read_bytes()[1:100])
    assert refusal(WatchedModel(assets), using(("moxin", 1.0))) == "lora_model: The LoRA 'moxin' can't be read: its file is damaged."
