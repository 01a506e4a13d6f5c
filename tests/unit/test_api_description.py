"""What /openapi.json says of the calls is true, and tools that read it can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sdapi.app import create_app
from sdapi.settings import Settings


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


def test_every_reference_points_at_something(described: dict[str, Any]) -> None:
    for reference in set(references(described)):
        found: Any = described
        for step in reference.removeprefix("#/").split("/"):
            assert step in found, reference
            found = found[step]


def test_no_call_announces_the_status_of_a_validation_that_is_never_done(described: dict[str, Any]) -> None:
    assert [name for name, operation in operations(described) if "422" in operation["responses"]] == []


def test_every_call_says_what_a_refusal_looks_like(described: dict[str, Any]) -> None:
    assert [name for name, operation in operations(described) if "4XX" not in operation["responses"]] == []


def test_a_get_has_its_fields_in_the_query(described: dict[str, Any]) -> None:
    gets = {name: operation for name, operation in operations(described) if name.startswith("GET ")}
    assert [name for name, operation in gets.items() if "requestBody" in operation] == []
    assert {one["name"] for one in gets["GET /api/v3/fetch/{id}"]["parameters"]} == {"id", "key"}


def test_metrics_are_text(described: dict[str, Any]) -> None:
    assert list(described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
