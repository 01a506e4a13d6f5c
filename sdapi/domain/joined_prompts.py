"""Prompts joined by the word AND, as A1111's users know them: each is encoded for itself, and the picture is led towards all of them.

`a cat AND a dog :0.5` leads to a cat and half as much to a dog. Without an AND in capitals a prompt is one, whatever stands in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_JOINED = 8
"""Each costs one more forward a step."""
MAX_WEIGHT = 20.0
"""As far as guidance itself goes."""

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")


@dataclass(frozen=True)
class JoinedPrompt:
    """One of the prompts."""

    text: str
    weight: float = 1.0
    """What stood after its last colon; below 0 leads away from it."""


def joined(prompt: str) -> tuple[JoinedPrompt, ...]:
    """The prompts, at least one. Empty ones between two ANDs are left out."""
    texts = _AND.split(prompt)
    if len(texts) == 1:
        return (JoinedPrompt(prompt),)
    prompts = [_weighed(text) for text in texts]
    return tuple(one for one in prompts if one.text) or (JoinedPrompt(""),)


def around_each(prompt: str, *, before: str = "", after: str = "") -> str:
    """The prompt with words before and after, in every one of its parts: what follows a weight would undo it."""
    prompts = joined(prompt)
    if len(prompts) == 1 and prompts[0].text == prompt:
        return f"{before}{prompt}{after}"
    return " AND ".join(f"{before}{one.text}{after} :{one.weight:g}" for one in prompts)


def _weighed(text: str) -> JoinedPrompt:
    found = _WEIGHT.search(text)
    return JoinedPrompt(text.strip()) if found is None else JoinedPrompt(text[: found.start()].strip(), float(found[1]))
