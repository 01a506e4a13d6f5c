"""From prompt text to what the UNet is told: A1111's syntax, prompts of any length, clip skip, textual inversions, cached encodings."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdapi.domain.joined_prompts import joined
from sdapi.pipelines.added.lora_formats import Side
from sdapi.pipelines.added.loras import Applied, applied
from sdapi.pipelines.guidance.halves import Weighted, Words
from sdapi.pipelines.words.embeddings import Embedding, split_by_words, standing_in
from sdapi.pipelines.words.prompt_syntax import BREAK, parse_weights

_MAX_CACHED_PROMPTS = 256


@dataclass(frozen=True)
class PromptChanges:
    """What a request lays over the text encoders for its own prompts."""

    loras: tuple[Applied, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    """Known by their words, wherever those stand in a prompt."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for changes that encode every prompt alike."""
        loras = tuple((use.lora.version, use.strength) for use in self.loras if use.lora.text_encoder or use.lora.text_encoder_2)
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
    """Encodes prompts with one model's CLIP text encoders; for use from one thread.

    Two encoders read the same words each in its own way: their contexts lie side by side, and the second's pooled vector goes with them.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        tokenizer_2: Any = None,
        text_encoder_2: Any = None,
        *,
        has_zeros_for_empty_prompt: bool = False,
    ) -> None:
        is_pair = text_encoder_2 is not None
        self._readers = [_Reader(tokenizer, text_encoder, place=0, skips_last=is_pair)]
        if is_pair:
            self._readers.append(_Reader(tokenizer_2, text_encoder_2, place=1, skips_last=True))
        self._has_zeros_for_empty_prompt = has_zeros_for_empty_prompt
        self._cache: OrderedDict[tuple[object, ...], Words] = OrderedDict()

    def chunk_count(self, prompt: str, changes: PromptChanges = _UNCHANGED) -> int:
        """How many chunks of (usually) 75 tokens the longest of the prompts joined in it fills, at least 1."""
        return max(len(reader.chunks(one.text, changes)) for one in joined(prompt) for reader in self._readers)

    def encode_joined(self, prompt: str, *, chunks: int, clip_skip: int = 1, changes: PromptChanges = _UNCHANGED) -> tuple[Weighted, ...]:
        """The prompts that AND joins, each encoded by itself; usually one."""
        parts = joined(prompt)
        return tuple(Weighted(self.encode(one.text, chunks=chunks, clip_skip=clip_skip, changes=changes), one.weight) for one in parts)

    def encode_negative(self, prompt: str, *, chunks: int, clip_skip: int = 1, changes: PromptChanges = _UNCHANGED) -> Words:
        """As `encode`, but for models that were trained with zeros in the place of no prompt at all. AND is a word like any other here."""
        words = self.encode(prompt, chunks=chunks, clip_skip=clip_skip, changes=changes)
        if prompt.strip() or not self._has_zeros_for_empty_prompt:
            return words
        return Words(torch.zeros_like(words.context), None if words.pooled is None else torch.zeros_like(words.pooled))

    @torch.no_grad()
    def encode(self, prompt: str, *, chunks: int, clip_skip: int = 1, changes: PromptChanges = _UNCHANGED) -> Words:
        """Context of shape (chunks * 77, hidden size), on the encoder's device and in its dtype.

        A prompt shorter than `chunks` is filled up with encoded empty chunks, as an empty prompt would be: neither zeros nor a mask,
        because the models were trained with neither. Weighted states keep the chunk's mean, as A1111 does. A prompt of one chunk
        without weights encodes exactly as diffusers' own `encode_prompt`.

        `clip_skip` 1 takes the layer the model was trained with: the last of a lone encoder, the last but one of each of a pair. Every
        further 1 takes the layer before; that is diffusers' `clip_skip` plus 1. The pooled vector is that of the first chunk, and
        neither clip skip nor weights change it, as in A1111.
        """
        key = (prompt, chunks, clip_skip, changes.key)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        encoded = [reader.encoded(prompt, chunks, clip_skip, changes) for reader in self._readers]
        words = Words(torch.cat([context for context, _ in encoded], dim=-1), encoded[-1][1])
        self._cache[key] = words
        if len(self._cache) > _MAX_CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return words

    def clear_cache(self) -> int:
        """Forget the encoded prompts; how many bytes they took."""
        freed = sum(words.nbytes for words in self._cache.values())
        self._cache.clear()
        return freed


_SIDES: tuple[Side, Side] = ("text_encoder", "text_encoder_2")


class _Reader:
    """One text encoder and its tokenizer."""

    def __init__(self, tokenizer: Any, text_encoder: Any, *, place: int, skips_last: bool) -> None:
        self._tokenizer = tokenizer
        self._encoder = text_encoder
        self._place = place
        self._skips_last = skips_last
        self._room = int(tokenizer.model_max_length) - 2

    def chunks(self, prompt: str, changes: PromptChanges) -> list[_Chunk]:
        chunks = [_Chunk()]
        for fragment in parse_weights(prompt):
            if fragment is BREAK:
                chunks.append(_Chunk())
                continue
            for piece in split_by_words(fragment.text, changes.embeddings):
                if isinstance(piece, Embedding):
                    self._set_in(piece.vectors[self._place], fragment.weight, chunks)
                    continue
                for token in self._tokenizer(piece, add_special_tokens=False, truncation=False, verbose=False).input_ids:
                    if len(chunks[-1].tokens) == self._room:
                        chunks.append(_Chunk())
                    chunks[-1].tokens.append(token)
                    chunks[-1].weights.append(fragment.weight)
        return chunks

    def _set_in(self, vectors: Tensor, weight: float, chunks: list[_Chunk]) -> None:
        """They were trained side by side, so they move to the next chunk together, as in A1111."""
        if len(chunks[-1].tokens) + len(vectors) > self._room:
            chunks.append(_Chunk())
        for vector in vectors:
            chunks[-1].vectors[len(chunks[-1].tokens)] = vector
            # Its vector is never looked at; but the end of the text, which pooling looks for, must not come before the real one.
            chunks[-1].tokens.append(self._tokenizer.bos_token_id)
            chunks[-1].weights.append(weight)

    def encoded(self, prompt: str, count: int, clip_skip: int, changes: PromptChanges) -> tuple[Tensor, Tensor | None]:
        """Context of so many chunks, and the first one's pooled vector where the encoder makes one."""
        pieces = self.chunks(prompt, changes)[:count]
        pieces += [_Chunk() for _ in range(count - len(pieces))]
        with applied(self._encoder, _SIDES[self._place], [changes.loras]):
            encoded = [self._encode_chunk(piece, clip_skip) for piece in pieces]
        return torch.cat([states for states, _ in encoded]), encoded[0][1]

    def _encode_chunk(self, chunk: _Chunk, clip_skip: int) -> tuple[Tensor, Tensor | None]:
        spare = self._room - len(chunk.tokens)
        ids = [self._tokenizer.bos_token_id, *chunk.tokens, self._tokenizer.eos_token_id, *[self._tokenizer.pad_token_id] * spare]
        with standing_in(self._encoder, {place + 1: vector for place, vector in chunk.vectors.items()}):
            states, pooled = self._states(torch.tensor([ids], device=self._encoder.device), clip_skip)
        if all(weight == 1.0 for weight in chunk.weights):
            return states, pooled
        scale = torch.tensor([1.0, *chunk.weights, 1.0, *[1.0] * spare], device=states.device, dtype=states.dtype)[:, None]
        weighted = states * scale
        return weighted * (states.mean() / weighted.mean()), pooled

    def _states(self, ids: Tensor, clip_skip: int) -> tuple[Tensor, Tensor | None]:
        if self._skips_last:
            output = self._encoder(ids, output_hidden_states=True)
            # Straight from the layer: the pair's UNet was trained without the norm that follows the last.
            embeds = getattr(output, "text_embeds", None)
            return _layer(output.hidden_states, clip_skip + 1)[0], None if embeds is None else embeds[0]
        if clip_skip == 1:
            return self._encoder(ids).last_hidden_state[0], None
        states = _layer(self._encoder(ids, output_hidden_states=True).hidden_states, clip_skip)
        # transformers 5.6 flattened CLIPTextModel: the norm sits on the model itself, before it sat on .text_model.
        return getattr(self._encoder, "text_model", self._encoder).final_layer_norm(states)[0], None


def _layer(states: tuple[Tensor, ...], from_end: int) -> Tensor:
    """What the layer so far from the end gives, 1 being the last; the first layer of an encoder that has fewer."""
    return states[-min(from_end, len(states) - 1)]
