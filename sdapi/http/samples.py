"""What the documentation page shows of a call: the fields it reads, and the hosted services' own samples as examples."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sdapi.dialects.wire_types import WireBody

from .answer_schemas import Schema, answer_like


def documented(dialect: str, sample: str, body: type[BaseModel] | None, *, answer: Schema | None = None) -> dict[str, Any]:
    """The `openapi_extra` of a route. The body itself is read by `bodies`, more kindly than FastAPI would.

    `sample` is the stem of `<sample>_request.json` and `<sample>_success.json` among the dialect's samples; those that are not there
    are left out. `answer` is the answers' schema; without it they are said to be as the sample is.
    """
    content: dict[str, Any] = {"schema": {"type": "object"} if body is None else schema_of(body)}
    asked = _sample(dialect, f"{sample}_request")
    if asked is not None:
        content["example"] = asked
    required = "required" in content["schema"]
    return {
        "requestBody": {"required": required, "content": {"application/json": content}},
        **documented_answer(dialect, sample, answer=answer),
    }


def documented_answer(dialect: str, sample: str, *, answer: Schema | None = None) -> dict[str, Any]:
    """As much of `documented` as a call without a body has."""
    told = _sample(dialect, f"{sample}_success") or _sample(dialect, f"{sample}_processing")
    if told is None and answer is None:
        return {}
    described: dict[str, Any] = {"schema": answer or answer_like(told)}
    if told is not None:
        described["example"] = told
    return {"responses": {"200": {"description": "The answer", "content": {"application/json": described}}}}


@cache
def schema_of(body: type[BaseModel]) -> Schema:
    """The body's JSON schema in one piece: a reference into its own definitions would point nowhere once it is a part of the API's."""
    schema = body.model_json_schema()
    for name in body.ignored if issubclass(body, WireBody) else ():
        del schema["properties"][name]
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        rest = {name: inlined(value) for name, value in part.items() if name != "$ref"}
        return inlined(definitions[part["$ref"].rpartition("/")[2]]) | rest if "$ref" in part else rest

    whole: Schema = inlined(schema)
    return whole


@cache
def _folder() -> Path | None:
    """Inside an installed wheel, or the tests' golden files in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next((place for place in (package / "_samples", package.parent / "tests" / "golden") if place.is_dir()), None)


def _sample(dialect: str, stem: str) -> Any:
    folder = _folder()
    path = None if folder is None else folder / dialect / f"{stem}.json"
    return json.loads(path.read_text()) if path is not None and path.is_file() else None
