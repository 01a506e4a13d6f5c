"""Files in fields that take none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from sdapi.domain.errors import InvalidRequest
from sdapi.domain.sent_file import SentFile


def refuse_stray_files(body: Mapping[str, object], known: Mapping[str, FieldInfo]) -> None:
    """Raise InvalidRequest about the files whose fields are not among the `known` ones that take files.

    Of other values unknown fields are ignored, but a file in one is a picture under a wrong name.
    """
    files = [name for name, value in body.items() if isinstance(value, SentFile)]
    if not files:
        return
    taking = [name for field, info in known.items() if _takes_files(info.annotation) for name in _names(field, info)]
    hint = f"this call takes files as {', '.join(taking)}" if taking else "this call takes no files"
    if stray := [name for name in files if name not in taking]:
        raise InvalidRequest({name: [f"The {name} must not be a file: {hint}."] for name in stray})


def _takes_files(annotation: object) -> bool:
    return annotation is SentFile or any(map(_takes_files, get_args(annotation)))


def _names(field: str, info: FieldInfo) -> tuple[str, ...]:
    alias = info.validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (field,)
