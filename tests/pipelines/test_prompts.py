"""Prompt weights as A1111's users know them, and prompts of any length."""

from __future__ import annotations

import diffusers
import pytest
import torch

from sdapi.pipelines.words.prompt_syntax import BREAK, Fragment, parse_weights
from sdapi.pipelines.words.prompts import PromptEncoder

from .drawing import demo_parts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.909091)]),
        ("(red:1.3) cat", [("red", 1.3), (" cat", 1.0)]),
        ("(a (red:2) cat:0.5)", [("a ", 0.5), ("red", 1.0), (" cat", 0.5)]),
        ("(red:.5)", [("red", 0.5)]),
        ("(red: 1.5 )", [("red", 1.5)]),
        (r"a \(real\) cat", [("a (real) cat", 1.0)]),
        ("a (red", [("a ", 1.0), ("red", 1.1)]),
        ("a red) cat]", [("a red) cat]", 1.0)]),
        ("ratio 16:9 (wide)", [("ratio 16:9 ", 1.0), ("wide", 1.1)]),
        ("(photorealistic:1.4), 1girl", [("photorealistic", 1.4), (", 1girl", 1.0)]),
        ("([x])", [("x", 1.0)]),
    ],
)
def test_weights_are_read_as_in_a1111(prompt: str, expected: list[tuple[str, float]]) -> None:
    fragments = parse_weights(prompt)
    assert [f.text for f in fragments] == [text for text, _ in expected]
    assert [f.weight for f in fragments] == pytest.approx([weight for _, weight in expected], abs=1e-4)


def test_break_separates_chunks() -> None:
    assert parse_weights("red BREAK blue") == [Fragment("red ", 1.0), BREAK, Fragment(" blue", 1.0)]


@pytest.fixture
def encoder() -> PromptEncoder:
    return PromptEncoder(demo_parts().tokenizer, demo_parts().text_encoder)


def test_a_plain_prompt_encodes_exactly_as_in_diffusers(encoder: PromptEncoder) -> None:
    parts = demo_parts()
    pipeline = diffusers.StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    expected, _ = pipeline.encode_prompt("a red circle, ßø 日本", torch.device("cpu"), 1, do_classifier_free_guidance=False)
    assert torch.equal(encoder.encode("a red circle, ßø 日本", chunks=1).context, expected[0])


def test_words_beyond_77_tokens_still_count(encoder: PromptEncoder) -> None:
    filler = "a " * 80
    red, blue = (f"{filler} {colour} circle" for colour in ("red", "blue"))
    assert encoder.chunk_count(red) == 2
    one, other = encoder.encode(red, chunks=2).context, encoder.encode(blue, chunks=2).context
    assert one.shape[0] == 154
    assert not torch.equal(one[77:], other[77:])
    assert torch.equal(one[:77], other[:77])


def test_a_shorter_prompt_is_filled_with_encoded_empty_chunks(encoder: PromptEncoder) -> None:
    filled = encoder.encode("a red circle", chunks=2).context
    assert torch.equal(filled[77:], encoder.encode("", chunks=1).context)


def test_a_weight_moves_the_encoding_in_proportion_and_one_is_neutral(encoder: PromptEncoder) -> None:
    plain = encoder.encode("a red circle", chunks=1).context
    assert torch.equal(encoder.encode("a (red:1.0) circle", chunks=1).context, plain)
    little = (encoder.encode("a (red:1.1) circle", chunks=1).context - plain).norm()
    much = (encoder.encode("a (red:1.5) circle", chunks=1).context - plain).norm()
    assert 0 < little < much


def test_clip_skip_takes_an_earlier_layer(encoder: PromptEncoder) -> None:
    parts = demo_parts()
    ids = parts.tokenizer("a red circle", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        layers = parts.text_encoder(ids, output_hidden_states=True).hidden_states
        expected = getattr(parts.text_encoder, "text_model", parts.text_encoder).final_layer_norm(layers[-2])[0]
    assert torch.equal(encoder.encode("a red circle", chunks=1, clip_skip=2).context, expected)
    assert not torch.equal(expected, encoder.encode("a red circle", chunks=1).context)
