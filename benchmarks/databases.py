"""Empty databases to measure on, and jobs in bulk to fill them with."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from asyncpg import PostgresError
from sqlalchemy import insert, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sdapi.catalog import EMBEDDED_ID
from sdapi.db.migrations import upgrade
from sdapi.db.session import async_url, open_database
from sdapi.db.tables import JobOutputRow, JobRow
from sdapi.domain.generation import GENERATION_JSON, Txt2Img
from sdapi.domain.job import JobStatus
from sdapi.jobs.estimates import cost_of

from .server import BenchmarkFailed

_ROWS_AT_ONCE = 2000
_OTHER_CLIENTS = 49
_HISTORY_DAYS = 6.0
"""Less than pictures are kept, so that none of these jobs has anything done to it."""


def new_sqlite(folder: Path) -> str:
    """URL of the database that a server with its data in `folder` finds."""
    return f"sqlite+aiosqlite:///{folder / 'data' / 'sdapi.sqlite3'}"


@contextmanager
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server: SDAPI_BENCH_POSTGRES_URL, else one of our own. Raises BenchmarkFailed where there is none."""
    if given := os.environ.get("SDAPI_BENCH_POSTGRES_URL"):
        yield given
        return
    try:
        import pgserver
    except ImportError as error:
        raise BenchmarkFailed("no PostgreSQL: set SDAPI_BENCH_POSTGRES_URL or install pgserver") from error
    # Its folder must be passable for the user the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="sdapi-bench-postgresql-"))
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_postgresql(server_url: str) -> Iterator[str]:
    """URL of an empty database on that server, dropped on exit; its user must be allowed to make one. Raises BenchmarkFailed."""
    name = f"sdapi_bench_{uuid4().hex}"
    try:
        asyncio.run(_execute(server_url, f"CREATE DATABASE {name}"))
    except (OSError, PostgresError, SQLAlchemyError) as error:
        raise BenchmarkFailed(f"no database could be made in PostgreSQL: {error}") from error
    try:
        yield async_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def fill(url: str, jobs: int) -> None:
    """Migrate the database and record so many finished jobs, a fifth of them of client 0, and let it gather its statistics."""
    await upgrade(url)
    chance = random.Random(jobs)
    ids = chance.sample(range(1, 2**31), jobs)
    now = datetime.now(UTC)
    async with open_database(url, pool_size=1) as sessions:
        for first in range(0, jobs, _ROWS_AT_ONCE):
            rows = [_finished(job_id, now, chance) for job_id in ids[first : first + _ROWS_AT_ONCE]]
            async with sessions.begin() as session:
                await session.execute(insert(JobRow), rows)
                await session.execute(insert(JobOutputRow), [{"name": row["output_names"][0], "job_id": row["id"]} for row in rows])
    # PostgreSQL does so by itself, some minutes later.
    if make_url(url).get_backend_name() == "postgresql":
        await _execute(url, "VACUUM ANALYZE")


def _finished(job_id: int, now: datetime, chance: random.Random) -> Mapping[str, Any]:
    request = Txt2Img(checkpoint=EMBEDDED_ID, prompt="a red circle on a blue background", width=64, height=64, seed=job_id, steps=1)
    created = now - timedelta(days=chance.uniform(0.01, _HISTORY_DAYS))
    status = chance.choices((JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED), (94, 3, 3))[0]
    token = uuid4()
    return {
        "id": job_id,
        "client_id": 0 if chance.random() < 0.2 else chance.randint(1, _OTHER_CLIENTS),
        "dialect": "goapi",
        "request": GENERATION_JSON.dump_json(request).decode(),
        "echo": {"endpoint": "/sd/txt2img", "model_id": EMBEDDED_ID, "file_prefix": str(token)},
        "status": status,
        "cost": cost_of(request),
        "output_names": [f"{token}-0.png"],
        "public_url": "http://127.0.0.1",
        "attempts": 1,
        "cancel_requested": False,
        "worker": "earlier",
        "heartbeat_at": created,
        "created_at": created,
        "started_at": created + timedelta(seconds=1),
        "finished_at": created + timedelta(seconds=2),
        "generation_time_s": 0.1 if status is JobStatus.SUCCEEDED else None,
        "error": "The sampler failed." if status is JobStatus.FAILED else None,
        "files_removed": False,
        "webhook_url": None,
        "is_temporary": False,
        "idempotency_key": None,
        "files_url": None,
        "is_unsafe": None,
    }


@asynccontextmanager
async def _autocommitting(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(async_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _execute(url: str, statement: str) -> None:
    async with _autocommitting(url) as connection:
        await connection.exec_driver_sql(statement)
