"""What a look-up asks the database, seen by SQLAlchemy itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from sdapi.services import DIALECTS

from .running import running, settings_for

SHORT = {"prompt": "a red circle on a blue background", "width": 64, "height": 64, "num_inference_steps": 2, "model_id": "demo"}
LOOKED_AT: ContextVar[list[str] | None] = ContextVar("statements", default=None)
"""Of this test's own calls; what the server does besides runs in tasks that began earlier."""


@contextmanager
def statements() -> Iterator[list[str]]:
    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if (seen := LOOKED_AT.get()) is not None and statement != "BEGIN":
            seen.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", note)
    found: list[str] = []
    token = LOOKED_AT.set(found)
    try:
        yield found
    finally:
        LOOKED_AT.reset(token)
        event.remove(Engine, "before_cursor_execute", note)


async def test_looking_up_a_finished_job_is_one_query_by_its_id_in_every_dialect(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, sync_wait_s=60)) as server:
        for dialect in DIALECTS:
            key = (await server.services.api_keys.create(dialect.NAME, "enterprise"))[1]
            headers = {"X-API-KEY": key}
            draw = next(endpoint.path for endpoint in dialect.ENDPOINTS if endpoint.path.endswith(("txt2img", "text2img")))
            drawn = (await server.client.post(draw, json=SHORT, headers=headers)).json()
            assert drawn["status"] == "success", (draw, drawn)
            for path in dialect.FETCH_PATHS:
                url = path.path.replace("{id}", str(drawn["id"]))
                body = {"id": drawn["id"], "request_id": drawn["id"]}
                await server.client.post(url, json=body, headers=headers)  # the key is remembered for a few seconds
                with statements() as asked:
                    fetched = await server.client.post(url, json=body, headers=headers)
                assert fetched.json()["status"] == "success"
                assert len(asked) == 1, url
                async with server.services.sessions() as session:
                    plan = await (await session.connection()).exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}", (1,) * asked[0].count("?"))
                    steps = [str(row[-1]) for row in plan]
                assert [step.split(" (")[0] for step in steps] == ["SEARCH jobs USING INTEGER PRIMARY KEY"], url
