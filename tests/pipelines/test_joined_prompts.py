"""Prompts joined by AND: each leads the picture by its own weight, and nothing of the joining is read as words."""

from __future__ import annotations

import pytest
import torch

from sdapi.domain.joined_prompts import JoinedPrompt, around_each, joined
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.words.embeddings import Embedding, placed

from .drawing import a_request, draw_alone, greatest_difference
from .tiny_families import SD1, XL, Kind, draw_with, parts_of

CLOSENESS = 1
"""Of 255: another order of the same sums."""
VISIBLE = 20


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("salt and pepper, BRAND", [("salt and pepper, BRAND", 1.0)]),
        ("a cat AND a dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("a cat :1.2 AND a dog:.5", [("a cat", 1.2), ("a dog", 0.5)]),
        ("a (cat:1.3) AND rain : -0.4", [("a (cat:1.3)", 1.0), ("rain", -0.4)]),
        ("a cat AND  AND a dog :2 ", [("a cat", 1.0), ("a dog", 2.0)]),
        ("AND", [("", 1.0)]),
    ],
)
def test_prompts_and_weights_are_read_as_in_a1111(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert joined(prompt) == tuple(JoinedPrompt(text, weight) for text, weight in expected)


def test_words_added_to_a_prompt_are_added_to_each_of_those_joined_and_weights_stay_last() -> None:
    assert around_each("a cat", before="pntr ", after=", fine") == "pntr a cat, fine"
    assert joined(around_each("a cat AND a dog :0.5", before="pntr ", after=", fine")) == (
        JoinedPrompt("pntr a cat, fine"),
        JoinedPrompt("pntr a dog, fine", 0.5),
    )
    moody = Embedding("1", ("moody",), (torch.ones(1, 8),))
    assert joined(placed("a cat AND a dog :0.5", "", [moody])[0])[1] == JoinedPrompt("a dog, moody", 0.5)


@pytest.mark.parametrize("kind", [SD1, XL])
def test_the_guided_prediction_is_the_weighted_sum_over_the_prompts(kind: Kind) -> None:
    model = UnetModel("demo", parts_of(kind))
    (row,) = model.prepare(
        a_request(prompt="a red circle AND the sea :0.5 AND rain :-0.3", negative_prompt="zebra", guidance_scale=5), None
    )
    alone = {
        words: model.predict(model.prepare(a_request(prompt=words, guidance_scale=1), None))[0]
        for words in ("a red circle", "the sea", "rain", "zebra")
    }
    towards = sum(weight * (alone[words] - alone["zebra"]) for words, weight in (("a red circle", 1), ("the sea", 0.5), ("rain", -0.3)))
    assert row.forwards == 4
    assert torch.allclose(model.predict([row])[0], alone["zebra"] + 5 * towards, atol=1e-4)


def test_a_weight_of_nothing_draws_the_other_prompt_alone_and_any_other_weight_is_seen() -> None:
    plain = draw_alone(a_request())
    assert greatest_difference(draw_alone(a_request(prompt=f"{a_request().prompt} AND a green star on white :0")), plain) <= CLOSENESS
    assert greatest_difference(draw_alone(a_request(prompt=f"{a_request().prompt} AND a green star on white :0.8")), plain) >= VISIBLE


def test_joined_prompts_of_different_lengths_are_filled_up_to_the_longest() -> None:
    long = "a " * 80 + "red circle"
    model = UnetModel("demo", parts_of(XL))
    (row,) = model.prepare(a_request(prompt=f"zebra AND {long}"), None)
    assert [prompt.words.context.shape[0] for prompt in row.prompts] == [154, 154]
    assert draw_with(parts_of(XL), a_request(prompt=f"zebra AND {long}", steps=2)).size == (64, 64)
