"""What cross-attentions make of a prompt is computed once, and is what they would make of it at every step."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from sdapi.catalog import Assets
from sdapi.pipelines.added.loras import Applied, Delta, Lora, applied
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.text_keys import TextKeys, text_keys_of
from sdapi.pipelines.guidance.halves import Words

from .drawing import Studio, a_request, demo_parts
from .lora_files import LINEAR, UNET_PATHS, a_lora, install, kohya
from .tiny_families import SD1, SD2, XL, Kind, parts_of

VALUES = LINEAR.replace("to_k", "to_v")


def a_unet(kind: Kind | None = None) -> Any:
    """A copy, whose attentions know tokens only as yet."""
    unet = copy.deepcopy((demo_parts() if kind is None else parts_of(kind)).unet)
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


def keys_of(unet: Any, **options: int) -> TextKeys:
    keys = text_keys_of(unet, **options)
    assert keys is not None
    return keys


def some_words(unet: Any, count: int = 2, tokens: int = 77) -> list[Words]:
    generator = torch.Generator().manual_seed(3)
    return [Words(torch.randn(tokens, unet.config.cross_attention_dim, generator=generator)) for _ in range(count)]


def a_unet_lora(version: str, paths: tuple[str, ...]) -> Lora:
    random = a_lora(unet=paths, text=())
    return Lora(version, {path: Delta(down, None, up, 1.0) for path, (down, up) in random.unet.items()}, {})


@torch.no_grad()
def seen(unet: Any, context: Tensor, side: int = 8) -> Tensor:
    latents = torch.randn(len(context), 4, side, side, generator=torch.Generator().manual_seed(1))
    conditions = {"text_embeds": torch.ones(len(context), 1280), "time_ids": torch.full((len(context), 6), 64.0)}
    output: Tensor = unet(latents, torch.full((len(context),), 500.0), context, added_cond_kwargs=conditions, return_dict=False)[0]
    return output


@contextmanager
def counted(unet: Any, path: str) -> Iterator[list[int]]:
    """How many samples the module was run for, call by call."""
    calls: list[int] = []
    hook = unet.get_submodule(path).register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", [None, SD1, SD2, XL])
@pytest.mark.parametrize("tokens", [77, 154])
def test_ready_keys_give_what_stock_attention_makes_of_the_tokens(kind: Kind | None, tokens: int) -> None:
    unet = a_unet(kind)
    first, second = some_words(unet, tokens=tokens)
    expected = seen(unet, torch.stack([first.context, second.context, first.context]))
    keys = keys_of(unet)
    with torch.no_grad():
        ready = keys.of([first, second, first], [(), (), ()])
    assert ready is not None
    assert (seen(unet, ready) - expected).abs().max() <= 1e-6
    assert not torch.allclose(expected[0], expected[1], atol=1e-4), "words are seen at all"


def test_tokens_are_still_understood() -> None:
    unet = a_unet()
    (words,) = some_words(unet, 1)
    expected = seen(unet, words.context[None])
    keys_of(unet)
    assert torch.equal(seen(unet, words.context[None]), expected)


def test_a_picture_computes_them_once_and_not_at_every_step() -> None:
    model = UnetModel("demo", demo_parts())
    studio = Studio({"demo": model})
    studio.ask(a_request(steps=6))
    studio.ask(a_request(seed=8, steps=5))
    studio.ask(a_request(prompt="a green star", steps=4))
    with counted(demo_parts().unet, LINEAR) as calls:
        studio.draw()
    assert calls == [1, 1, 1], "two prompts and the empty one"


def test_a_lora_on_them_is_in_them_for_its_own_samples() -> None:
    unet = a_unet()
    first, second = some_words(unet)
    uses = (Applied(a_unet_lora("one@1", (LINEAR, VALUES)), 0.8),)
    with applied(unet, "unet", [uses, (), ()]):
        expected = seen(unet, torch.stack([first.context, first.context, second.context]))
    keys = keys_of(unet)
    with torch.no_grad():
        ready = keys.of([first, first, second], [uses, (), ()])
    assert ready is not None
    assert (seen(unet, ready) - expected).abs().max() <= 1e-5
    assert (seen(unet, ready)[0] - seen(unet, ready)[1]).abs().max() > 1e-3, "the LoRA is seen at all"


def test_other_strengths_and_other_files_of_a_lora_have_their_own() -> None:
    unet = a_unet()
    (words,) = some_words(unet, 1)
    keys = keys_of(unet)
    lora = a_unet_lora("one@1", (LINEAR,))
    delta = lora.unet[LINEAR]
    replaced = Lora("one@2", {LINEAR: Delta(delta.down * 2, None, delta.up, 1.0)}, {})
    with torch.no_grad():
        rows = [keys.of([words], [uses]) for uses in ((), (Applied(lora, 1.0),), (Applied(lora, 0.5),), (Applied(replaced, 1.0),))]
    told = [row for row in rows if row is not None]
    assert len(told) == 4
    assert all(not torch.equal(one, other) for place, one in enumerate(told) for other in told[:place])


def test_rows_with_a_lora_compute_them_once_too(tmp_path: Path) -> None:
    install(tmp_path, "moxin", kohya(a_lora(unet=UNET_PATHS)))
    model = UnetModel("demo", demo_parts(), Assets(tmp_path))
    studio = Studio({"demo": model})
    studio.ask(a_request(steps=6, loras=[{"id": "moxin", "strength": 0.5}]))
    with counted(demo_parts().unet, LINEAR) as calls:
        studio.draw()
    assert calls == [1, 1]


def test_the_same_batch_is_stacked_once() -> None:
    unet = a_unet()
    first, second = some_words(unet)
    keys = keys_of(unet)
    with torch.no_grad():
        before = keys.of([first, second], [(), ()])
        assert keys.of([first, second], [(), ()]) is before
        assert keys.of([second, first], [(), ()]) is not before


def test_words_that_nobody_has_any_more_take_no_memory() -> None:
    unet = a_unet()
    words = some_words(unet, 1)
    keys = keys_of(unet)
    with torch.no_grad():
        keys.of(words, [()])
    words.clear()
    gc.collect()
    assert keys.clear() == 0


def test_they_keep_to_their_budget() -> None:
    unet = a_unet()
    words = some_words(unet, 6)
    one_bytes = 77 * 2 * 608 * 4
    keys = keys_of(unet, budget_bytes=3 * one_bytes)
    with torch.no_grad(), counted(unet, LINEAR) as calls:
        for each in words:
            keys.of([each], [()])
        assert keys.of(words, [()] * 6) is None, "more than fits is told as tokens"
        keys.of([words[-1]], [()])
        assert len(calls) == 6, "the last ones are there"
        keys.of([words[0]], [()])
        assert len(calls) == 7, "the first one had to leave"
    assert keys.clear() <= 3 * one_bytes


def test_clearing_the_caches_forgets_them() -> None:
    model = UnetModel("demo", demo_parts())
    model.predict(model.prepare(a_request(), None))
    keys = model._text_keys
    assert keys is not None
    assert model.clear_caches() > 2 * 77 * 2 * 608 * 4
    assert keys.clear() == 0


def test_networks_with_another_kind_of_attention_are_left_as_they_are() -> None:
    unet = a_unet()
    unet.get_submodule(LINEAR.removesuffix(".to_k")).norm_k = torch.nn.LayerNorm(16)
    assert text_keys_of(unet) is None
    assert {type(each) for each in unet.attn_processors.values()} == {AttnProcessor2_0}
