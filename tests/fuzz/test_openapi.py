"""Every call the API's own description lists, with values as described and not as described: never a 5xx, and answers as described.

Left out are the calls that end the server, as they should: restart_server and update_server.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from sdapi.app import create_app
from sdapi.settings import Settings

from . import budget
from .target import TIMEOUT_S, Target
from .usual import USUAL

ENDS_THE_SERVER = ("/restart_server", "/update_server", "/update")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@cache
def operations() -> dict[str, Any]:
    """The described calls, by method and path."""
    described = create_app(Settings(_env_file=None)).openapi()
    schema = schemathesis.openapi.from_dict(described)
    found = (cast("Any", result).ok() for result in schema.get_all_operations())
    return {operation.label: operation for operation in found if not operation.path.endswith(ENDS_THE_SERVER)}


@pytest.mark.parametrize("label", operations())
def test_the_call_answers_as_described_whatever_it_is_asked(label: str, target: Target) -> None:
    operation = operations()[label]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))

    @budget.repeatable(budget.each_of(len(operations())))
    @given(case=cases, names_a_job=st.booleans(), usual=st.booleans())
    def send(case: Any, names_a_job: bool, usual: bool) -> None:
        for name in ("id", "job_id"):
            if names_a_job and target.ids and name in case.path_parameters:
                case.path_parameters[name] = str(target.ids[-1])
        if usual and isinstance(case.body, dict):
            known = {name for body in operation.body for name in body.definition["schema"].get("properties", ())}
            # One of the generated values stays as it is.
            kept = next(iter(case.body), None)
            case.body = {**case.body, **{name: value for name, value in USUAL.items() if name in known and name != kept}}
        answer = case.call(
            base_url=target.server.url,
            session=target.session,
            headers={"X-API-KEY": target.key},
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        case.validate_response(answer, checks=CHECKS)
        target.note(answer.content)

    send()
