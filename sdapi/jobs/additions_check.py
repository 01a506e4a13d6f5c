"""What a request adds to its checkpoint - LoRAs, textual inversions, another VAE - looked up before anything is recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sdapi.catalog import KIND_FOLDERS, AssetKind, Assets
from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.domain.generation import MAX_LORA_STRENGTH, MAX_LORAS, LoraUse

_TAG = re.compile(r"\s*<lora:(?P<name>[^<>:]+)(?P<rest>(?::[^<>]*)?)>", re.IGNORECASE)
_NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Looked:
    """What was found, by id: it may be asked for by an alias."""

    prompt: str
    """As the client wrote it, without `<lora:name:weight>`."""
    loras: tuple[LoraUse, ...]
    embeddings: tuple[str, ...]
    vae: str | None


def look_up(asked: Asked, assets: Assets) -> Looked:
    """Touches the disk. Raises InvalidRequest with the client's own field names.

    A LoRA that is named twice has its last strength, and the prompt has the last word.
    """
    strengths: dict[str, float] = {}
    for name, strength in zip(asked.lora_models, asked.lora_strengths, strict=True):
        strengths[_id_of(assets, "lora", name, field="lora_model", word="LoRA")] = strength
    prompt = asked.prompt
    if asked.kind != "upscale":
        for name, strength in _tagged(asked.prompt):
            strengths[_id_of(assets, "lora", name, field="prompt", word="LoRA")] = strength
        prompt = _TAG.sub("", asked.prompt).strip() if _TAG.search(asked.prompt) else asked.prompt
    if len(strengths) > MAX_LORAS:
        raise InvalidRequest.of("lora_model", f"At most {MAX_LORAS} LoRAs can be used at once.")
    embeddings = tuple(_id_of(assets, "embedding", name, field="embeddings_model", word="textual inversion") for name in asked.embeddings)
    vae = None if asked.vae is None else _id_of(assets, "vae", asked.vae, field="vae", word="VAE")
    loras = tuple(LoraUse(id=name, strength=strength) for name, strength in strengths.items())
    return Looked(prompt, loras, tuple(dict.fromkeys(embeddings)), vae)


def _tagged(prompt: str) -> Iterable[tuple[str, float]]:
    for tag in _TAG.finditer(prompt):
        weight = tag["rest"].removeprefix(":").strip()
        try:
            strength = float(weight) if weight else 1.0
        except ValueError:
            raise InvalidRequest.of("prompt", f"In {tag[0].strip()} the weight must be a number, as in <lora:name:0.8>.") from None
        if not -MAX_LORA_STRENGTH <= strength <= MAX_LORA_STRENGTH:  # so that "nan" is refused, too
            limits = f"between -{MAX_LORA_STRENGTH:g} and {MAX_LORA_STRENGTH:g}"
            raise InvalidRequest.of("prompt", f"In {tag[0].strip()} the weight must be {limits}.")
        yield tag["name"].strip(), strength


def _id_of(assets: Assets, kind: AssetKind, name: str, *, field: str, word: str) -> str:
    try:
        return assets.get(kind, name).id
    except ModelNotFound as error:
        more = ", ..." if len(error.available) > _NAMED_AT_MOST else "."
        there_are = f"There are: {', '.join(error.available[:_NAMED_AT_MOST])}{more}"
        if not error.available:
            there_are = f"There are none: they belong into models/{KIND_FOLDERS[kind]}/."
        raise InvalidRequest.of(field, f"There is no {word} named {name!r} on this server. {there_are}") from error
