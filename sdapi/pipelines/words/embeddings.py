"""Textual inversions: words that stand for trained vectors, put in the place of a prompt's own token vectors while it is encoded.

The tokenizer and the embedding table, which all pictures share, never learn of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sdapi.catalog import Asset, Refused
from sdapi.domain.joined_prompts import around_each

_A1111_NAME = "emb_params"
_SDXL_NAMES = ("clip_l", "clip_g")
"""Of the first and of the second text encoder."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """One textual inversion that fits a text encoder."""

    version: str
    """Tells files apart that bore one name after the other."""
    words: tuple[str, ...]
    """What a prompt calls it: its id, its trigger, the token it was trained as."""
    vectors: tuple[Tensor, ...]
    """For each of the model's text encoders (vectors, hidden size), on its device and in its dtype."""

    @property
    def size_bytes(self) -> int:
        """What the vectors take."""
        return sum(vectors.nbytes for vectors in self.vectors)

    @property
    def is_negative(self) -> bool:
        """Whether its name says that it was trained on what pictures should not look like."""
        return re.search(r"neg|bad|worst|unaesthetic", self.words[0], re.IGNORECASE) is not None


class EmbeddingReader:
    """Reads textual inversions for one model's text encoders."""

    def __init__(self, *text_encoders: Any) -> None:
        """One encoder, or the two of Stable Diffusion XL."""
        self._tables: list[nn.Embedding] = [text_encoder.get_input_embeddings() for text_encoder in text_encoders]
        self._room = int(text_encoders[0].config.max_position_embeddings) - 2

    def read(self, asset: Asset) -> Embedding:
        """A1111's `emb_params`, diffusers' `learned_embeds`, or the pair of `clip_l` and `clip_g`.

        Raises Refused where it doesn't fit, and what safetensors raises.
        """
        (file,) = asset.weights
        tensors = safetensors.torch.load_file(file)
        names, token = self._names_in(tensors)
        found = [tensors.get(name, torch.empty(0)) for name in names]
        vectors = tuple(self._fitted(one, table) for one, table in zip(found, self._tables, strict=True))
        words = tuple(filter(None, (asset.id, asset.trigger, token)))
        return Embedding(f"{asset.id}@{asset.modified_at.isoformat()}", words, vectors)

    def _names_in(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], str]:
        """The tensor for each text encoder, and the token they were trained as, if they tell."""
        is_pair = not set(_SDXL_NAMES).isdisjoint(tensors)
        if len(self._tables) == 2:
            if not tensors.keys() >= set(_SDXL_NAMES):
                raise Refused("It has no vectors for each of Stable Diffusion XL's two text encoders; it was made for another family.")
            return _SDXL_NAMES, ""
        if is_pair:
            raise Refused("It was made for Stable Diffusion XL.")
        if _A1111_NAME in tensors:
            return (_A1111_NAME,), ""
        if len(tensors) > 1:
            raise Refused("It holds more than one word; files with one word each can be used.")
        token = next(iter(tensors), "")
        return (token,), token

    def _fitted(self, vectors: Tensor, table: nn.Embedding) -> Tensor:
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        if vectors.ndim != 2 or vectors.shape[1] != table.embedding_dim:
            raise Refused(f"Its vectors have {vectors.shape[-1]} numbers, where the model's words have {table.embedding_dim}.")
        if not 1 <= vectors.shape[0] <= self._room:
            raise Refused(f"It has {vectors.shape[0]} vectors; 1 to {self._room} can be used.")
        vectors = vectors.to(table.weight.device, table.weight.dtype, copy=True)
        if not bool(torch.isfinite(vectors).all()):
            raise Refused("Its vectors are not numbers.")
        return vectors


def mentions(prompt: str, word: str) -> bool:
    """Whether the word stands in the prompt by itself, in any case of letters."""
    return bool(word) and _pattern([word]).search(prompt) is not None


def placed(prompt: str, negative_prompt: str, embeddings: Sequence[Embedding]) -> tuple[str, str]:
    """The prompts, with the names of those embeddings that stand in neither: without its name an embedding would do nothing.

    It goes to the end of the negative prompt where its name says that it was trained on faults, else to the end of the prompt.
    """
    for embedding in embeddings:
        if any(mentions(text, word) for text in (prompt, negative_prompt) for word in embedding.words):
            continue
        name = embedding.words[0]
        if embedding.is_negative:
            negative_prompt = f"{negative_prompt}, {name}" if negative_prompt else name
        else:
            prompt = around_each(prompt, after=f", {name}") if prompt else name
    return prompt, negative_prompt


def split_by_words(text: str, embeddings: Sequence[Embedding]) -> list[str | Embedding]:
    """The text with the words of embeddings replaced by them. The longest word that fits counts."""
    by_word = {word.lower(): embedding for embedding in embeddings for word in embedding.words}
    if not by_word:
        return [text]
    pieces: list[str | Embedding] = []
    at = 0
    for found in _pattern(by_word).finditer(text):
        pieces += [text[at : found.start()], by_word[found[0].lower()]]
        at = found.end()
    return [*pieces, text[at:]]


def _pattern(words: Sequence[str] | dict[str, Embedding]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    # A hyphen joins: "bad-hands" is no mention of "bad".
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])", re.IGNORECASE)


@contextmanager
def standing_in(text_encoder: Any, vectors: dict[int, Tensor]) -> Iterator[None]:
    """While it is open, the encoder takes these vectors, (hidden size,) each, for the tokens at these places of its one sequence."""
    if not vectors:
        yield
        return

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        for place, vector in vectors.items():
            output[0, place] = vector  # what a look-up in the table returns is a copy
        return output

    handle = text_encoder.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
