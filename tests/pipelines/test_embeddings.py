"""Textual inversions: words of a prompt that stand for trained vectors."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdapi.catalog import Asset, Assets
from sdapi.pipelines.added.additions import Additions, AdditionShelves
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble
from sdapi.pipelines.words.embeddings import EmbeddingReader, placed, split_by_words
from sdapi.pipelines.words.prompts import PromptEncoder

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference

VISIBLE = 4


def vectors(count: int, *, size: int = 64, seed: int = 5) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def install(models_dir: Path, name: str, tensors: dict[str, Tensor]) -> None:
    (models_dir / "embeddings").mkdir(exist_ok=True)
    save_file(tensors, models_dir / "embeddings" / f"{name}.safetensors")


def added(models_dir: Path, prompt: str, **changes: object) -> Additions:
    return AdditionShelves("demo", demo_parts(), Assets(models_dir)).of(a_request(prompt=prompt, **changes))


def encoded(models_dir: Path, prompt: str, **changes: object) -> Tensor:
    additions = added(models_dir, prompt, **changes)
    encoder = PromptEncoder(demo_parts().tokenizer, demo_parts().text_encoder)
    return encoder.encode(
        additions.prompt, chunks=encoder.chunk_count(additions.prompt, additions.changes), changes=additions.changes
    ).context


def stock_encoding(prompt: str, tensors: Tensor, token: str) -> Tensor:
    """What diffusers makes of it, with a tokenizer and a text encoder of its own."""
    import copy

    parts = demo_parts()
    pipeline = diffusers.StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=copy.deepcopy(parts.text_encoder),
        tokenizer=copy.deepcopy(parts.tokenizer),
        unet=parts.unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_textual_inversion({token: tensors}, token=token)
    expected: Tensor = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, do_classifier_free_guidance=False)[0][0]
    return expected


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_encodes_as_in_diffusers(tmp_path: Path, count: int) -> None:
    trained = vectors(count)
    install(tmp_path, "moody", {"emb_params": trained})
    expected = stock_encoding("a red moody circle", trained, "moody")
    assert torch.allclose(encoded(tmp_path, "a red moody circle"), expected, atol=1e-5)


@pytest.mark.parametrize("trained", [vectors(1)[0], vectors(3)])
def test_diffusers_files_are_read_and_the_token_they_were_trained_as_is_a_name_too(tmp_path: Path, trained: Tensor) -> None:
    install(tmp_path, "moody", {"<sks>": trained})
    file = tmp_path / "embeddings" / "moody.safetensors"
    # Built by hand, because the catalog knows no text encoders as narrow as the embedded model's.
    asset = Asset("moody", "embedding", file, "single_file", 1, datetime(2026, 1, 1, tzinfo=UTC), weights=(file,), trigger="in a mood")
    read = EmbeddingReader(demo_parts().text_encoder).read(asset)
    assert read.words == ("moody", "in a mood", "<sks>")
    assert torch.equal(read.vectors[0], trained.reshape(-1, 64))
    assert split_by_words("a (<SKS> circle", [read]) == ["a (", read, " circle"]


def test_a_weight_counts_for_its_vectors(tmp_path: Path) -> None:
    install(tmp_path, "moody", {"emb_params": vectors(2)})
    assert not torch.equal(encoded(tmp_path, "a red (moody:1.4) circle"), encoded(tmp_path, "a red moody circle"))


@pytest.mark.parametrize("prompt", ["a red moodyish circle", "a red not-moody circle"])
def test_only_whole_words_are_names(tmp_path: Path, prompt: str) -> None:
    plain = encoded(tmp_path, prompt)
    install(tmp_path, "moody", {"emb_params": vectors(2)})
    assert torch.equal(encoded(tmp_path, prompt), plain)


def test_its_vectors_stay_together_at_the_end_of_a_chunk(tmp_path: Path) -> None:
    install(tmp_path, "moody", {"emb_params": vectors(4)})
    additions = added(tmp_path, "a " * 73 + "moody")
    encoder = PromptEncoder(demo_parts().tokenizer, demo_parts().text_encoder)
    assert encoder.chunk_count(additions.prompt, additions.changes) == 2
    assert torch.equal(encoded(tmp_path, "a " * 73 + "moody")[77:], encoded(tmp_path, "moody"))


def test_one_that_is_asked_for_and_not_named_is_added_where_it_belongs(tmp_path: Path) -> None:
    for name in ("moody", "EasyNegative"):
        install(tmp_path, name, {"emb_params": vectors(1)})
    found = added(tmp_path, "a cat", negative_prompt="red", embeddings=["moody", "EasyNegative"])
    assert (found.prompt, found.negative_prompt) == ("a cat, moody", "red, EasyNegative")
    assert placed("a cat", "easynegative", found.changes.embeddings[1:]) == ("a cat", "easynegative")


def test_it_changes_the_pictures_that_name_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    install(tmp_path, "moody", {"emb_params": vectors(2)})
    table = demo_parts().text_encoder.get_input_embeddings()
    before, words = table.weight.clone(), len(demo_parts().tokenizer)
    studio = Studio({"demo": UnetModel("demo", demo_parts(), Assets(tmp_path))})
    plain, moody = studio.ask(a_request()), studio.ask(a_request(prompt="a moody circle on a blue background"))
    again = studio.ask(a_request())
    studio.draw()
    assert greatest_difference(moody.image, draw_alone(a_request(prompt="a moody circle on a blue background"))) >= VISIBLE
    for untouched in (plain, again):
        assert greatest_difference(untouched.image, draw_alone(a_request())) <= 2
    assert torch.equal(table.weight, before)
    assert len(demo_parts().tokenizer) == words
    assert not table._forward_hooks  # torch has no public way to ask


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"emb_params": vectors(2, size=768)}, "Its vectors have 768 numbers, where the model's words have 64."),
        ({"clip_l": vectors(1), "clip_g": vectors(1)}, "It was made for Stable Diffusion XL."),
        ({"emb_params": vectors(76)}, "It has 76 vectors; 1 to 75 can be used."),
        ({"emb_params": vectors(1) * torch.nan}, "Its vectors are not numbers."),
    ],
)
def test_one_that_does_not_fit_fails_its_job_in_a_sentence_and_is_a_mere_word_to_others(
    tmp_path: Path, tensors: dict[str, Tensor], sentence: str
) -> None:
    install(tmp_path, "circle", tensors)
    studio = Studio({"demo": UnetModel("demo", demo_parts(), Assets(tmp_path))})
    asking, mentioning = studio.ask(a_request(embeddings=["circle"])), studio.ask(a_request())
    studio.draw()
    (result,) = asking.results
    assert isinstance(result, Trouble)
    assert result.reason == f"embeddings_model: The textual inversion 'circle' can't be used with the model 'demo': {sentence}"
    assert isinstance(mentioning.results[0], Pictures)
    assert mentioning.image.tobytes() == draw_alone(a_request()).tobytes()
