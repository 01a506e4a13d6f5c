"""What `enhance_prompt` adds to prompts."""

from __future__ import annotations

from typing import Literal

EnhanceWith = Literal["model", "stock", "off"]
"""The words in the model's sidecar; where that has none, those of the hosted services; nothing."""

STOCK_WORDS = "DSLR photography, sharp focus, Unreal Engine 5, Octane Render"
STOCK_NEGATIVE_WORDS = (
    "painting, extra fingers, mutated hands, poorly drawn hands, poorly drawn face, deformed, ugly, blurry, bad anatomy, bad proportions, "
    "extra limbs, cloned face, skinny, glitchy, double torso, extra arms, extra hands, mangled fingers, missing lips, ugly face, "
    "distorted face, extra legs, anime"
)
"""Both as the samples in the hosted services' documents show them."""
NO_WORDS = "none"
"""What the sidecar of a model says to which such words do no good."""


def enhancing_words(own: str, stock: str, *, enhance_with: EnhanceWith) -> str:
    """What is added for a model whose sidecar says `own`; empty for nothing."""
    if enhance_with == "off" or own.strip().lower() == NO_WORDS:
        return ""
    return own or (stock if enhance_with == "stock" else "")
