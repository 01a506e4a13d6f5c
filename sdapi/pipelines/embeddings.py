"""Textual inversions: words that stand for trained vectors, put in the place of a prompt's own token vectors while it is encoded.

The tokenizer and the embedding table, which all pictures share, never learn of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sdapi.catalog import Asset, Refused

_A1111_NAME = "emb_params"
_SDXL_NAMES = frozenset({"clip_l", "clip_g"})


@dataclass(frozen=True, eq=False)
class Embedding:
    """One textual inversion that fits a text encoder."""

    version: str
    """Tells files apart that bore one name after the other."""
    words: tuple[str, ...]
    """What a prompt calls it: its id, its trigger, the token it was trained as."""
    vectors: Tensor
    """(vectors, hidden size), on the encoder's device and in its dtype."""

    @property
    def size_bytes(self) -> int:
        """What the vectors take."""
        return self.vectors.nbytes

    @property
    def is_negative(self) -> bool:
        """Whether its name says that it was trained on what pictures should not look like."""
        return re.search(r"neg|bad|worst|unaesthetic", self.words[0], re.IGNORECASE) is not None


class EmbeddingReader:
    """Reads textual inversions for one text encoder."""

    def __init__(self, text_encoder: Any) -> None:
        table: nn.Embedding = text_encoder.get_input_embeddings()
        self._hidden = table.embedding_dim
        self._room = int(text_encoder.config.max_position_embeddings) - 2
        self._table = table

    def read(self, asset: Asset) -> Embedding:
        """A1111's `emb_params` or diffusers' `learned_embeds`. Raises Refused where it doesn't fit, and what safetensors raises."""
        (file,) = asset.weights
        tensors = safetensors.torch.load_file(file)
        if not _SDXL_NAMES.isdisjoint(tensors):
            raise Refused("It was made for Stable Diffusion XL.")
        if len(tensors) > 1 and _A1111_NAME not in tensors:
            raise Refused("It holds more than one word; files with one word each can be used.")
        name = _A1111_NAME if _A1111_NAME in tensors else next(iter(tensors), "")
        vectors = tensors.get(name, torch.empty(0))
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        if vectors.ndim != 2 or vectors.shape[1] != self._hidden:
            raise Refused(f"Its vectors have {vectors.shape[-1]} numbers, where the model's words have {self._hidden}.")
        if not 1 <= vectors.shape[0] <= self._room:
            raise Refused(f"It has {vectors.shape[0]} vectors; 1 to {self._room} can be used.")
        weight = self._table.weight
        vectors = vectors.to(weight.device, weight.dtype, copy=True)
        if not bool(torch.isfinite(vectors).all()):
            raise Refused("Its vectors are not numbers.")
        token = "" if name == _A1111_NAME else name
        return Embedding(f"{asset.id}@{asset.modified_at.isoformat()}", tuple(filter(None, (asset.id, asset.trigger, token))), vectors)


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
            prompt = f"{prompt}, {name}" if prompt else name
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
