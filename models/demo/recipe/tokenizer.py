"""A CLIP tokenizer whose vocabulary is the grammar's words, over a byte alphabet that can spell any other text."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from .captions import vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """The 256 printable characters byte-level BPE uses for bytes, in byte order (GPT-2's table, which CLIP took over)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {b: chr(b) for b in plain}
    spare = 0
    for b in range(256):
        if b not in names:
            names[b] = chr(256 + spare)
            spare += 1
    return [names[b] for b in range(256)]


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write `vocab.json`, `merges.txt` and the configuration files; return the tokenizer they make.

    Ordinary byte-pair encoding, run until every word of the grammar is one token; any other text falls apart into shorter
    pieces, never into an unknown.
    """
    letters = byte_alphabet()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges = list[tuple[str, str]]()
    # CLIP's pre-tokenizer splits digits and punctuation off, so a merged token of those could never occur.
    words = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary() if word.isalpha()]
    while True:
        pairs = Counter(pair for pieces in words for pair in pairwise(pieces))
        if not pairs:
            break
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(pair)
        tokens.append("".join(pair))
        words = [_merged(pieces, pair) for pieces in words]
    tokens += [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), bos_token=START, eos_token=END, unk_token=END, pad_token=END
    )
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)
    return tokenizer


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(pieces):
        if tuple(pieces[i : i + 2]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out
