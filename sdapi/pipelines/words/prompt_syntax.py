"""A1111's syntax within a prompt: stretches of it with their weights, and where chunks end."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BRACKET_WEIGHT = 1.1
_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")


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
