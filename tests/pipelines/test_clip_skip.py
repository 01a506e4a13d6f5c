"""Clip skip takes the layer it says, in lone encoders and in Stable Diffusion XL's pair."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdapi.pipelines.loading.single_files import SHIPPED_CONFIGS, tokenizer_from
from sdapi.pipelines.words.prompts import PromptEncoder

PROMPT = "a red circle"
LAYERS = 10


@cache
def config(hidden_size: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        projection_dim=24,
        vocab_size=49408,
        bos_token_id=49406,
        eos_token_id=49407,
    )


@cache
def networks() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    torch.manual_seed(0)
    return CLIPTextModel(config(16)).eval(), CLIPTextModelWithProjection(config(20)).eval()


def tokenizers() -> tuple[object, object]:
    return tokenizer_from(SHIPPED_CONFIGS / "sdxl" / "tokenizer"), tokenizer_from(SHIPPED_CONFIGS / "sdxl" / "tokenizer_2")


@torch.no_grad()
def layers_of(network: object, pad: int) -> tuple[Tensor, ...]:
    ids = [49406, 320, 736, 7117, 49407, *[pad] * 72]
    states: tuple[Tensor, ...] = network(torch.tensor([ids]), output_hidden_states=True).hidden_states  # type: ignore[operator]
    return states


@pytest.mark.parametrize("clip_skip", range(1, 9))
def test_a_lone_encoder_counts_from_its_last_layer_and_norms_what_it_takes(clip_skip: int) -> None:
    network = networks()[0]
    found = PromptEncoder(tokenizers()[0], network).encode(PROMPT, chunks=1, clip_skip=clip_skip).context
    with torch.no_grad():
        norm = getattr(network, "text_model", network).final_layer_norm
        expected = norm(layers_of(network, 49407)[LAYERS + 1 - clip_skip])[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("clip_skip", range(1, 9))
def test_the_pair_counts_from_the_last_layer_but_one_and_norms_nothing(clip_skip: int) -> None:
    (first, second), (one, two) = networks(), tokenizers()
    encoder = PromptEncoder(one, first, two, second)
    found = encoder.encode(PROMPT, chunks=1, clip_skip=clip_skip)
    at = LAYERS - clip_skip
    assert torch.equal(found.context, torch.cat([layers_of(first, 49407)[at][0], layers_of(second, 0)[at][0]], dim=-1))
    pooled = encoder.encode(PROMPT, chunks=1).pooled
    assert found.pooled is not None
    assert pooled is not None
    assert torch.equal(found.pooled, pooled)


def test_weights_count_in_both_encoders_and_leave_the_pooled_vector_alone() -> None:
    (first, second), (one, two) = networks(), tokenizers()
    encoder = PromptEncoder(one, first, two, second)
    plain, weighted = (encoder.encode(text, chunks=1) for text in ("a red circle", "a (red:1.5) circle"))
    assert plain.pooled is not None
    assert weighted.pooled is not None
    for of_one in (slice(0, 16), slice(16, 36)):
        assert not torch.allclose(plain.context[:, of_one], weighted.context[:, of_one])
    assert torch.equal(plain.pooled, weighted.pooled)


def test_break_starts_a_new_chunk_in_both_encoders_and_the_first_chunk_is_pooled() -> None:
    (first, second), (one, two) = networks(), tokenizers()
    encoder = PromptEncoder(one, first, two, second)
    assert encoder.chunk_count("red BREAK blue") == 2
    both, red, blue = (encoder.encode(text, chunks=chunks) for text, chunks in (("red BREAK blue", 2), ("red", 1), ("blue", 1)))
    assert torch.allclose(both.context, torch.cat([red.context, blue.context]), atol=1e-6)
    assert both.pooled is not None
    assert red.pooled is not None
    assert torch.allclose(both.pooled, red.pooled, atol=1e-6)


def test_the_shipped_tokenizers_of_the_pair_differ_in_what_they_fill_chunks_with() -> None:
    one, two = tokenizers()
    assert [tokenizer("a red circle").input_ids for tokenizer in (one, two)] == [[49406, 320, 736, 7117, 49407]] * 2  # type: ignore[operator]
    assert [tokenizer.pad_token_id for tokenizer in (one, two)] == [49407, 0]  # type: ignore[attr-defined]
    assert not list(Path(SHIPPED_CONFIGS).glob("sd[2x]*/tokenizer*/vocab.json")), "one vocabulary is shipped, once"
    assert json.loads((SHIPPED_CONFIGS / "sdxl" / "model_index.json").read_text())["force_zeros_for_empty_prompt"] is True
