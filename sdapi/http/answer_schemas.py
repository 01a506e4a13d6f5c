"""JSON schemas of what calls answer, for the documentation page: wide enough for every dialect, narrow enough to hold us to."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_MESSAGE: Final[Schema] = {
    "description": "A sentence, or for each field that is not right the sentences about it",
    "anyOf": [_TEXT, {"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}}],
}

REFUSAL: Final[Schema] = {
    "type": "object",
    "required": ["status", "message"],
    "properties": {"status": {"enum": ["error", "failed"]}, "message": _MESSAGE, "messege": _MESSAGE, "tip": _TEXT, "tips": _TEXT},
}

JOB: Final[Schema] = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"enum": ["success", "processing", "failed", "error"]},
        "id": {"description": "Empty in the answer of a failed request, as documented", "anyOf": [{"type": "integer"}, {"const": ""}]},
        "output": {"anyOf": [{"type": "array", "items": _TEXT}, _TEXT]},
        "generationTime": {"type": "number"},
        "eta": {"type": "number", "minimum": 0},
        "meta": {"type": "object"},
        "fetch_result": _TEXT,
        "future_links": {"type": "array", "items": _TEXT},
        "message": _MESSAGE,
        "messege": _MESSAGE,
    },
}
"""The answer of a call that makes a job or looks one up, in whatever state; where refusals come with status 200, of those, too."""

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"description": "A refusal; `message` says why", "content": {"application/json": {"schema": REFUSAL}}}
}
"""What every route may answer besides. It stands in for FastAPI's own 422, which no route ever answers."""


def answer_like(sample: object) -> Schema:
    """The schema of answers such as this documented one, of a service that refused with status 200."""
    return {"type": "object"} if isinstance(sample, dict) else {"anyOf": [{"type": "array"}, REFUSAL]}
