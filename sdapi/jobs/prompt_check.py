"""What a prompt may ask with the word AND, told before anything is stored."""

from __future__ import annotations

from sdapi.catalog import UNET_FAMILIES, Checkpoint
from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.joined_prompts import MAX_JOINED, MAX_WEIGHT, joined


def check_prompt(asked: Asked, checkpoint: Checkpoint) -> None:
    """Raises InvalidRequest. To models of other families AND is a word like any other."""
    if checkpoint.family not in UNET_FAMILIES:
        return
    prompts = joined(asked.prompt)
    if len(prompts) > MAX_JOINED:
        raise InvalidRequest.of("prompt", f"It joins {len(prompts)} prompts with AND; {MAX_JOINED} can be joined.")
    for one in prompts:
        if abs(one.weight) > MAX_WEIGHT:
            allowed = f"prompts joined with AND have weights from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
            raise InvalidRequest.of("prompt", f"It gives {one.text[:40]!r} the weight {one.weight:g}; {allowed}.")
