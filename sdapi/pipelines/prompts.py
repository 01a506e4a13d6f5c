"""From prompt text to the UNet's context: A1111's weight syntax, prompts of any length, clip skip, textual inversions, cached contexts."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .embeddings import Embedding, split_by_words, standing_in
from .loras import Applied, applied

_BRACKET_WEIGHT = 1.1
_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
_MAX_CACHED_PROMPTS = 256


@dataclass(frozen=True)
class Fragment:
    """A stretch of prompt with one weight."""

    text: str
    weight: float


BREAK = Fragment("BREAK", -1.0)
"""Fills the current chunk of 75 tokens up, so that what follows starts a new one."""


def parse_weights(prompt: str) -> list[Fragment]:
    """Fragments of a prompt in A1111's syntax, as its users know it (AUTOMATIC1111 wiki, "Attention/emphasis").

    `(x)` weighs x by 1.1, `((x))` by 1.21, `[x]` by 1/1.1, `(x:1.3)` by 1.3; `\\(` is a literal bracket; the word BREAK starts a new
    chunk. Brackets nobody closed still weigh, brackets nobody opened are text. Never raises.
    """
    reader = _WeightReader(prompt)
    reader.read()
    merged: list[Fragment] = []
    for text, weight in reader.pieces:
        for i, part in enumerate(re.split(r"\bBREAK\b", text)):
            if i:
                merged.append(BREAK)
            if not part:
                continue
            if merged and merged[-1] is not BREAK and merged[-1].weight == weight:
                merged[-1] = Fragment(merged[-1].text + part, weight)
            else:
                merged.append(Fragment(part, weight))
    return merged or [Fragment("", 1.0)]


class _WeightReader:
    """One pass over the prompt; `pieces` are (text, weight), and an open bracket remembers where its pieces begin."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.pieces: list[tuple[str, float]] = []
        self._open: list[tuple[str, int]] = []
        self._text: list[str] = []

    def read(self) -> None:
        at = 0
        while at < len(self.prompt):
            char = self.prompt[at]
            if char == "\\" and at + 1 < len(self.prompt) and self.prompt[at + 1] in "()[]\\":
                self._text.append(self.prompt[at + 1])
                at += 2
            elif char in "([":
                self._flush()
                self._open.append((char, len(self.pieces)))
                at += 1
            elif char == ":" and self._innermost() == "(" and (found := _WEIGHT.match(self.prompt, at)):
                self._close(float(found.group(1)))
                at = found.end()
            elif (char == ")" and self._innermost() == "(") or (char == "]" and self._innermost() == "["):
                self._close(_BRACKET_WEIGHT if char == ")" else 1 / _BRACKET_WEIGHT)
                at += 1
            else:
                self._text.append(char)
                at += 1
        self._flush()
        while self._open:
            self._close(_BRACKET_WEIGHT if self._open[-1][0] == "(" else 1 / _BRACKET_WEIGHT)

    def _innermost(self) -> str | None:
        return self._open[-1][0] if self._open else None

    def _flush(self) -> None:
        if self._text:
            self.pieces.append(("".join(self._text), 1.0))
            self._text = []

    def _close(self, weight: float) -> None:
        self._flush()
        _, first = self._open.pop()
        self.pieces[first:] = [(text, round(w * weight, 6)) for text, w in self.pieces[first:]]


@dataclass(frozen=True)
class PromptChanges:
    """What a request lays over the text encoder for its own prompts."""

    loras: tuple[Applied, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    """Known by their words, wherever those stand in a prompt."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for changes that encode every prompt alike."""
        loras = tuple((use.lora.version, use.strength) for use in self.loras if use.lora.text_encoder)
        return loras, tuple(embedding.version for embedding in self.embeddings)


_UNCHANGED = PromptChanges()


@dataclass
class _Chunk:
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    """One for each token."""
    vectors: dict[int, Tensor] = field(default_factory=dict)
    """By place among the tokens, what stands in for them."""


class PromptEncoder:
    """Encodes prompts with one model's CLIP text encoder; for use from one thread."""

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._encoder = text_encoder
        self._room = int(tokenizer.model_max_length) - 2
        self._cache: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def chunk_count(self, prompt: str, changes: PromptChanges = _UNCHANGED) -> int:
        """How many chunks of (usually) 75 tokens the prompt fills, at least 1."""
        return len(self._chunks(prompt, changes))

    @torch.no_grad()
    def encode(self, prompt: str, *, chunks: int, clip_skip: int = 1, changes: PromptChanges = _UNCHANGED) -> Tensor:
        """Context of shape (chunks * 77, hidden size), on the encoder's device and in its dtype.

        A prompt shorter than `chunks` is filled up with encoded empty chunks, as an empty prompt would be: neither zeros nor a mask,
        because SD 1.x was trained with neither. Weighted states keep the chunk's mean, as A1111 does. A prompt of one chunk
        without weights encodes exactly as diffusers' own `encode_prompt`.
        """
        key = (prompt, chunks, clip_skip, changes.key)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        pieces = self._chunks(prompt, changes)[:chunks]
        pieces += [_Chunk() for _ in range(chunks - len(pieces))]
        with applied(self._encoder, "text_encoder", [changes.loras]):
            context = torch.cat([self._encode_chunk(piece, clip_skip) for piece in pieces])
        self._cache[key] = context
        if len(self._cache) > _MAX_CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return context

    def clear_cache(self) -> int:
        """Forget the encoded prompts; how many bytes they took."""
        freed = sum(context.nbytes for context in self._cache.values())
        self._cache.clear()
        return freed

    def _chunks(self, prompt: str, changes: PromptChanges) -> list[_Chunk]:
        chunks = [_Chunk()]
        for fragment in parse_weights(prompt):
            if fragment is BREAK:
                chunks.append(_Chunk())
                continue
            for piece in split_by_words(fragment.text, changes.embeddings):
                if isinstance(piece, Embedding):
                    self._place(piece, fragment.weight, chunks)
                    continue
                for token in self._tokenizer(piece, add_special_tokens=False, truncation=False, verbose=False).input_ids:
                    if len(chunks[-1].tokens) == self._room:
                        chunks.append(_Chunk())
                    chunks[-1].tokens.append(token)
                    chunks[-1].weights.append(fragment.weight)
        return chunks

    def _place(self, embedding: Embedding, weight: float, chunks: list[_Chunk]) -> None:
        """Its vectors were trained side by side, so they move to the next chunk together, as in A1111."""
        if len(chunks[-1].tokens) + len(embedding.vectors) > self._room:
            chunks.append(_Chunk())
        for vector in embedding.vectors:
            chunks[-1].vectors[len(chunks[-1].tokens)] = vector
            chunks[-1].tokens.append(self._tokenizer.pad_token_id)  # any will do: its vector is never looked at
            chunks[-1].weights.append(weight)

    def _encode_chunk(self, chunk: _Chunk, clip_skip: int) -> Tensor:
        spare = self._room - len(chunk.tokens)
        ids = [self._tokenizer.bos_token_id, *chunk.tokens, self._tokenizer.eos_token_id, *[self._tokenizer.pad_token_id] * spare]
        with standing_in(self._encoder, {place + 1: vector for place, vector in chunk.vectors.items()}):
            states = self._hidden_states(torch.tensor([ids], device=self._encoder.device), clip_skip)[0]
        if all(weight == 1.0 for weight in chunk.weights):
            return states
        scale = torch.tensor([1.0, *chunk.weights, 1.0, *[1.0] * spare], device=states.device, dtype=states.dtype)[:, None]
        weighted = states * scale
        return weighted * (states.mean() / weighted.mean())

    def _hidden_states(self, ids: Tensor, clip_skip: int) -> Tensor:
        if clip_skip == 1:
            last: Tensor = self._encoder(ids).last_hidden_state
            return last
        layers = self._encoder(ids, output_hidden_states=True).hidden_states
        # transformers 5.6 flattened CLIPTextModel: the norm sits on the model itself, before it sat on .text_model.
        owner = getattr(self._encoder, "text_model", self._encoder)
        normed: Tensor = owner.final_layer_norm(layers[-min(clip_skip, len(layers) - 1)])
        return normed
