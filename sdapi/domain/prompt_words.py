"""A prompt taken apart into words that may be translated and the structure around them, which must stay as it is.

Structure is what A1111's users write: brackets and weights, commas, `<lora:name:1>`, BREAK, names of textual inversions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from pydantic import BaseModel, ConfigDict

_STRUCTURE = re.compile(
    r"""
      <[^<>]*>                                  # a tag of a LoRA
    | \\[()\[\]\\]                              # a literal bracket
    | :\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*(?=\)|$)   # a weight, of a bracket or of a prompt that AND joins
    | \b(?:BREAK|AND)\b
    | [()\[\]{},;|\n\r，、；،؛。।]+
    """,
    re.VERBOSE,
)
_FOREIGN_COMMA = re.compile(r"\s*[，、；،؛。।]\s*")


class PromptPiece(BaseModel):
    """A stretch of a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    language: str | None = None
    """The code of the language it is to be translated from; None: it stays."""


def taken_apart(prompt: str, *, names: Collection[str] = ()) -> list[tuple[str, bool]]:
    """All of the prompt in stretches, and whether each is words; `names`, which are never words, are found in any letter case.

    White space around words is structure.
    """
    stretches: list[tuple[str, bool]] = []
    for text, is_structure in _split(prompt, _STRUCTURE):
        if is_structure:
            stretches.append((text, False))
            continue
        for part, is_name in _split(text, _names(names)) if names else [(text, False)]:
            stretches += [(part, False)] if is_name else _trimmed(part)
    return stretches


def in_ascii_marks(structure: str) -> str:
    """Structure with the commas and full stops of other scripts as commas that English models know."""
    return _FOREIGN_COMMA.sub(", ", structure)


def has_letters(text: str) -> bool:
    """Whether there is anything to translate."""
    return any(char.isalpha() for char in text)


def together(pieces: Iterable[PromptPiece]) -> str:
    """The prompt of these pieces."""
    return "".join(piece.text for piece in pieces)


def _names(names: Collection[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def _split(text: str, pattern: re.Pattern[str]) -> Iterable[tuple[str, bool]]:
    """Everything, in order, and whether the pattern found it."""
    at = 0
    for found in pattern.finditer(text):
        if found.start() > at:
            yield text[at : found.start()], False
        yield found[0], True
        at = found.end()
    if at < len(text):
        yield text[at:], False


def _trimmed(text: str) -> list[tuple[str, bool]]:
    words = text.strip()
    if not has_letters(words):
        return [(text, False)] if text else []
    before, _, after = text.partition(words)
    return [(part, part is words) for part in (before, words, after) if part]
